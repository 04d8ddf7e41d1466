"""What of encoders goes to GPUs, rehearsed on the CPU: by budget, by layers, experts apart."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import PlacementWishes
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning import plan_files
from powerinfer_cli.opening.planning.placing import place
from powerinfer_cli.placement import MAIN_MEMORY, Plan, device_use
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents, Piece, Wanted
from powerinfer_cli.runtime.device.bytes import model_bytes
from powerinfer_cli.runtime.whole_texts import whole_text_options
from tests.helpers.families.encoders import tiny_encoder
from tests.helpers.families.family import PROMPT
from tests.helpers.placing.placed_model import bytes_alone_count
from tests.helpers.tiny_models import tiny_model

OPTIONS = EngineOptions(n_threads=1)
IDS = [max(token, 3) for token in PROMPT]
TEXTS = [IDS[:70], IDS[5:6], IDS[10:41], IDS[40:42]]
EVERYTHING = 1 << 30


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_files, "cache_root", lambda: tmp_path / "cache")
    bytes_alone_count(monkeypatch)


def plan_for(gguf: GGUFFile, **wishes: object) -> Plan | None:
    """By which vectors are what they are in main memory; None: nothing goes to the GPU."""
    model = load_model(gguf)
    asked = PlacementWishes(device="cpu", **wishes)  # type: ignore[arg-type]  # any wish
    placement = place(gguf, model, OPTIONS, asked, Companions(None, None), LoadEvents()).placement
    found = []
    for where in (None, placement):
        engine = Engine(model, OPTIONS, placement=where)
        found.append(engine.step([Piece(i, ids, Wanted.HIDDEN) for i, ids in enumerate(TEXTS)]))
        engine.close()
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    return None if placement is None else placement.plan


@pytest.mark.parametrize("name", ["bert", "jina-bert-v2-code", "modern-bert-reranker", "gemma-embedding"])
def test_layers_by_number(tmp_path: Path, name: str) -> None:
    """Some, and all with what follows them."""
    gguf = tiny_encoder(name).file.open(tmp_path)
    n_layer = load_model(gguf).config.n_layer
    for count in (1, 99):
        plan = plan_for(gguf, vram_budget=(EVERYTHING,), gpu_layers=count)
        assert plan is not None
        here = min(count, n_layer)
        assert [one.device for one in plan.layers] == [MAIN_MEMORY] * (n_layer - here) + [0] * here
        assert (plan.output == MAIN_MEMORY) == (count == 1)


def test_budgets(tmp_path: Path) -> None:
    """From nothing to everything more and more is there, and never more than the budget."""
    gguf = tiny_encoder("modern-bert").file.open(tmp_path)
    model = load_model(gguf)
    options = whole_text_options(OPTIONS, model.config)
    sizes = model_bytes(model, options, options.n_ctx)
    assert sum(one.kv for one in sizes.layers) == 0  # nothing is kept of a text
    used = []
    for share in (0.0, 0.5, 1.0):
        budget = round(sizes.scratch + share * (sizes.total - sizes.scratch))
        plan = plan_for(gguf, vram_budget=(budget,))
        used.append(0 if plan is None else device_use(sizes, plan, 0).total)
        assert used[-1] <= budget
    assert used[0] == 0
    assert 0 < used[1] < used[2] == sizes.total


def test_experts_apart(tmp_path: Path) -> None:
    """All experts of the layers that have some stay in main memory."""
    plan = plan_for(tiny_encoder("nomic-bert-moe").file.open(tmp_path), vram_budget=(EVERYTHING,), cpu_moe=True)
    assert plan is not None
    assert {one.device for one in plan.layers} == {0}
    assert any(one.hot.size == 0 for one in plan.layers)
    assert any(one.hot.size for one in plan.layers)


def test_a_causal_model_that_sees_both_sides(tmp_path: Path) -> None:
    gguf = tiny_model("llama").file.with_metadata(attention__causal=False).open(tmp_path)
    plan = plan_for(gguf, vram_budget=(EVERYTHING,))
    assert plan is not None
    assert {one.device for one in plan.layers} == {0}
