"""Greedy texts are the same with and without drafts: by drafters, families, cache types, constraints, company."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.drafting import Drafter, DraftingEngine, DraftOptions, NgramDrafter
from powerinfer_cli.drafting.guesses import GuessingDrafter
from powerinfer_cli.drafting.model import ModelDrafter
from powerinfer_cli.gguf_io import GGMLType, GGUFFile
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.model.guesser import read_guesser
from powerinfer_cli.placement import LayerPlacement, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.families.guessers import tiny_guesser
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES
from tests.helpers.tiny_models import tiny_model

N = 20
Maker = Callable[[Engine], Drafter]


def file_of(name: str, who: str) -> ModelFile:
    if who == "mtp":
        return tiny_guesser(name).file
    if name != "sparse":
        return tiny_family(name).file
    tiny = tiny_model("llama-relu")
    return tiny.file.sparsified(random_predictors(tiny)).stored_as(GGMLType.Q8_0)


def maker_of(who: str, gguf: GGUFFile, model: Model, n_ctx: int | None = None) -> Maker:
    """model: the same one. n_ctx: of the drafter's own context."""

    def guessing(engine: Engine) -> Drafter:
        options = replace(engine.options, n_ctx=n_ctx or engine.n_ctx)
        return GuessingDrafter(engine, Engine(read_guesser(gguf, model), options, beside=engine), 0.0, 0.0)

    def small(engine: Engine) -> Drafter:
        options = replace(engine.options, n_ctx=n_ctx or engine.n_ctx, type_k="f16", type_v="f16")
        return ModelDrafter(Engine(model, options), 0.0, 0.0)

    makers: dict[str, Maker] = {
        "ngram": lambda engine: NgramDrafter(engine.n_sequences, 1, 4),
        "model": small,
        "mtp": guessing,
    }
    return makers[who]


def texts(engine: Engine, prompts: Sequence[Sequence[int]], *, parity: bool) -> list[list[int]]:
    """parity: behind an odd token comes an even one."""
    following = engine.step([Piece(i, ids) for i, ids in enumerate(prompts)])
    found: list[list[int]] = [[] for _ in prompts]
    for _ in range(N):
        for i, logits in enumerate(following):
            assert logits is not None
            odd = parity and found[i] and found[i][-1] % 2
            found[i].append(2 * int(logits[::2].argmax()) if odd else int(logits.argmax()))
        following = engine.step([Piece(i, (ids[-1],), stepwise=True) for i, ids in enumerate(found)])
    return found


def test_batches_hardly_larger_than_company(tmp_path: Path) -> None:
    """What recurrent layers have to read again has no room beside the next tokens."""
    gguf = tiny_guesser("qwen35").file.open(tmp_path)
    model = load_model(gguf)
    options = EngineOptions(n_ctx=384, n_sequences=3, n_threads=1, n_ubatch=6)
    maker = maker_of("mtp", gguf, model)
    plain, ahead = (
        Engine(model, options),
        DraftingEngine(model, options, drafter=maker, drafts=DraftOptions(most=5)),
    )
    prompts = [PROMPT[i : i + 2] for i in range(3)]
    assert texts(ahead, prompts, parity=False) == texts(plain, prompts, parity=False)


@pytest.mark.parametrize("who", ["model", "mtp"])
def test_texts_that_outgrow_a_drafters_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """Which they share: drafts get fewer, and nothing else happens."""
    monkeypatch.setattr("powerinfer_cli.drafting.guesses.MOST_WAITING", 0)
    gguf = file_of("deepseek3", who).open(tmp_path)
    model = load_model(gguf)
    options = EngineOptions(n_ctx=256, n_sequences=3, n_threads=1, n_ubatch=64, unified=True)
    plain = Engine(model, options)
    ahead = DraftingEngine(model, options, drafter=maker_of(who, gguf, model, 48), drafts=DraftOptions(most=5))
    for prompts in ([PROMPT[i : i + 2] for i in range(3)], [PROMPT[:60]]):
        assert texts(ahead, prompts, parity=False) == texts(plain, prompts, parity=False)
        for i in range(3):
            assert ahead.drafted(i).proposed > 0
            plain.truncate(0, i)
            ahead.truncate(0, i)


def half_placed(model: Model) -> Placement:
    """The last layer in main memory; of each other one about half of what can be divided."""
    layers = []
    for i, layer in enumerate(model.layers):
        n = layer.ffn.n_groups
        hot = np.arange(n // 2 if layer.ffn.divisible else 0, n, dtype=np.int32)
        last = i == len(model.layers) - 1
        layers.append(LayerPlacement(-1, np.arange(0, dtype=np.int32)) if last else LayerPlacement(0, hot))
    return Placement(Plan((1 << 30,), tuple(layers), 0, "layers", ""), DEVICES)


@pytest.mark.parametrize(
    ("who", "name", "cache", "parity", "company", "placed"),
    [
        ("ngram", "sparse", "f16", False, 1, False),
        ("ngram", "gemma3", "f32", True, 3, False),
        ("ngram", "gpt-oss", "f32", True, 2, True),
        ("ngram", "lfm2", "f16", True, 2, False),
        ("ngram", "deepseek3", "f16", False, 3, False),
        ("ngram", "falcon-h1", "f16", False, 2, False),
        ("model", "mamba2", "f16", True, 2, False),
        ("ngram", "nemotron_h_moe", "f16", True, 1, False),
        ("model", "sparse", "f32", True, 3, True),
        ("model", "mixtral", "f16", True, 1, False),
        ("model", "qwen35moe", "f16", False, 2, False),
        ("model", "llama4", "f16", False, 2, False),
        ("mtp", "glm4moe", "f16", False, 2, True),
        ("mtp", "deepseek3", "f16", True, 2, False),
        ("mtp", "qwen35moe", "f16", False, 2, True),
        ("ngram", "lfm2", "f32", True, 1, True),
        ("mtp", "qwen35", "q8_0", True, 3, False),
    ],
)
def test_greedy_texts(
    tmp_path: Path, who: str, name: str, cache: str, parity: bool, company: int, placed: bool
) -> None:
    gguf = file_of(name, who).open(tmp_path)
    model = load_model(gguf)
    options = EngineOptions(n_ctx=128 * company, n_sequences=company, n_threads=1, type_k=cache, type_v=cache)
    placement = half_placed(model) if placed else None
    prompts = [PROMPT[i : i + 12 + i] for i in range(company)]
    plain = Engine(model, options, placement=placement)
    maker = maker_of(who, gguf, model)
    ahead = DraftingEngine(model, options, placement=placement, drafter=maker, drafts=DraftOptions(most=5))
    wanted = texts(plain, prompts, parity=parity)
    assert texts(ahead, prompts, parity=parity) == wanted
    np.testing.assert_array_equal(ahead.stats.counts, plain.stats.counts)
    assert sum(ahead.drafted(i).proposed for i in range(company)) > 0
    plain.close()
    ahead.close()
