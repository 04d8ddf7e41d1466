"""Caches whose last pages lie in main memory, where the CPU attends over them: all is as if the device had them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES, backend_of, waits_of
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.several_texts import alone, assert_same, some_events, together
from tests.helpers.tiny_models import tiny_model

LONG = (PROMPT * 6)[:420]


def engine_of(file: ModelFile, folder: Path, pages: Sequence[int | None] | None = None, **options: object) -> Engine:
    """pages: of each layer's cache on the device, by turns; without, the plain twin."""
    gguf = file.open(folder)
    given = {"n_ctx": 512, "n_ubatch": 150, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options
    if pages is None:
        return Engine.load(gguf, EngineOptions(**given, reference=True))  # type: ignore[arg-type]  # any option
    layers = load_model(gguf).layers
    plan = plan_of(file, [0] * len(layers), [1.0] * len(layers), 0, groups=[one.ffn.n_groups for one in layers])
    placed = [replace(one, pages=pages[i % len(pages)]) for i, one in enumerate(plan.layers)]
    placement = Placement(replace(plan, layers=tuple(placed)), DEVICES[:1])
    return Engine.load(gguf, EngineOptions(**given), placement=placement)  # type: ignore[arg-type]  # any option


def told(engine: Engine) -> np.ndarray:
    """A prompt in batches across pages, token by token across another, after a shift, and after being restored."""
    rows = [*engine.logits(LONG[:380]), *map(engine.decode, LONG[380:390])]
    engine.shift(4, 90)
    rows += map(engine.decode, LONG[390:395])
    ids, saved = list(engine.tokens), engine.save(0)
    engine.reset()
    engine.restore(0, ids, saved)
    return np.stack([*rows, engine.decode(LONG[395]), engine.prefill(LONG[396:])])


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "gemma2",
        "gemma4-experts",
        "gemma4-small",
        "gpt-oss",
        "deepseek2-lite",
        "mpt",
        "llama4",
        "phi2",
        "qwen3moe",
    ],
)
def test_across_the_border(tmp_path: Path, name: str) -> None:
    file = tiny_family(name).file
    wanted = told(engine_of(file, tmp_path))
    for pages in [[0], [1, None, 2]]:
        check_logits(told(engine_of(file, tmp_path, pages)), wanted)


@pytest.mark.parametrize(("type_k", "type_v"), [("f16", "q8_0"), ("q8_0", "f16")])
def test_cache_types(tmp_path: Path, type_k: str, type_v: str) -> None:
    """As all on the device, up to how a number between two steps is rounded."""
    file = tiny_model("qwen3").file
    wanted, found = (told(engine_of(file, tmp_path, pages, type_k=type_k, type_v=type_v)) for pages in ([None], [1, 0]))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("pages", [[0], [3], [4, 2]])
def test_in_company(tmp_path: Path, pages: Sequence[int | None]) -> None:
    """Sequences whose pages lie on either side."""
    file = tiny_model("qwen3").file
    events = some_events(3, 200, 36)
    wanted = alone(engine_of(file, tmp_path), events, 3)
    several = {"n_ctx": 600, "n_sequences": 3, "n_ubatch": 40, "unified": True}
    assert_same(together(engine_of(file, tmp_path, pages, **several), events), wanted)


def test_who_waits(tmp_path: Path) -> None:
    """Nobody while all lies on the device; then once a layer whose cache does not."""
    engine = engine_of(tiny_model("qwen3").file, tmp_path, [1, None])
    n_layer = len(backend_of(engine).plan.layers)
    assert re.fullmatch(r"3\d\.\d% of the KV cache \(.* MiB\) in main memory", engine.stats.placed_line() or "")
    none_there = engine_of(tiny_model("qwen3").file, tmp_path, [0]).stats.placed_line() or ""
    assert none_there.startswith("100.0% of the KV cache (")
    engine.prefill(LONG[:127])
    before = waits_of(engine)
    engine.decode(LONG[127])
    assert waits_of(engine) == before + 1
    engine.decode(LONG[128])
    assert waits_of(engine) == before + 1 + (n_layer + 1) // 2 + 1


def test_threads_change(tmp_path: Path) -> None:
    file = tiny_model("qwen3").file
    engine, wanted = engine_of(file, tmp_path, [0, 1]), engine_of(file, tmp_path)
    check_logits(engine.logits(LONG[:150]), wanted.logits(LONG[:150]))
    engine.use_threads(3, 1)
    check_logits(engine.decode(LONG[150]), wanted.decode(LONG[150]))
    check_logits(engine.logits(LONG[151:160]), wanted.logits(LONG[151:160]))
