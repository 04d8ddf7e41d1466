"""What is hot changes while a model runs, and what comes of it does not; the GPU's part rehearsed on the CPU."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.placement import HeatRule, LayerPlacement, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES, backend_of, waits_of
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import tiny_model

RULE = HeatRule(half_life=6, margin=0.1, uploads=2, neurons=8)
MIXTURES = ("gpt-oss", "smallthinker")  # biases; rows of zeros, early routers
SHARED = "qwen2moe"  # has a shared expert
SPARSE = ("llama-relu", "opt")


def model_of(name: str) -> ModelFile:
    if name not in SPARSE:
        return tiny_family(name).file
    tiny = tiny_model(name)
    return tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])


def opened(
    name: str, folder: Path, rule: HeatRule | None, *, second: int = 99, stream_from: int | None = None, **more: object
) -> Engine:
    """The last groups of each layer are hot at first, about a third. From layer `second` on on the second device."""
    file = model_of(name)
    gguf = file.open(folder)
    layers = []
    for index, layer in enumerate(load_model(gguf).layers):
        n = layer.ffn.n_groups
        hot = np.arange(n - max(1, n // 3) if layer.ffn.divisible else 0, n, dtype=np.int32)
        layers.append(LayerPlacement(int(index >= second), hot))
    plan = Plan((1 << 30, 1 << 30), tuple(layers), 0, "layers", "")
    options = {"n_ctx": 128, "n_ubatch": 16, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | more
    placement = Placement(plan, DEVICES, adaptive=rule, stream_from=stream_from)
    return Engine.load(gguf, EngineOptions(**options), placement=placement)  # type: ignore[arg-type]  # any option


def told(engine: Engine) -> np.ndarray:
    """A prompt in batches with all its logits, token by token, and again in a batch."""
    prompt = [token % engine.config.n_vocab for token in PROMPT]
    rows = [*engine.logits(prompt[:20]), *map(engine.decode, prompt[20:32])]
    return np.stack([*rows, engine.prefill(prompt[32:36])])


def greedy(engine: Engine, count: int) -> list[int]:
    engine.reset()
    found = [int(engine.prefill(PROMPT[:5]).argmax())]
    while len(found) < count:
        found.append(int(engine.decode(found[-1]).argmax()))
    return found


@pytest.mark.parametrize("name", [*MIXTURES, *SPARSE])
def test_the_same_is_written_whatever_is_hot(tmp_path: Path, name: str) -> None:
    """As without, up to rounding; twice the same to the bit. Two devices, and weights as the file has them."""
    still, adaptive, again = (opened(name, tmp_path, rule) for rule in (None, RULE, RULE))
    wanted, found = told(still), told(adaptive)
    check_logits(found, wanted)
    np.testing.assert_array_equal(found, told(again))
    assert (still.stats.uploads, still.stats.moved) == (0, 0)
    stats, uploads = adaptive.stats, adaptive.stats.uploads
    assert uploads > 4
    assert stats.moved > uploads
    what = "experts" if name in MIXTURES else "groups of neurons"
    assert f"{uploads} {what} brought there (" in (stats.placed_line() or "")
    assert (uploads, stats.moved, stats.hit_rate) == (again.stats.uploads, again.stats.moved, again.stats.hit_rate)
    if name in MIXTURES:
        np.testing.assert_array_equal(stats.routed[:, 0], still.stats.routed[:, 0])
    else:  # as many neurons were let through and fired
        np.testing.assert_array_equal(stats.counts, still.stats.counts)
    assert greedy(adaptive, 8) == greedy(still, 8)
    apart = opened(name, tmp_path, RULE, second=1, repack=False)
    check_logits(told(apart), wanted)
    assert apart.stats.uploads == uploads


@pytest.mark.parametrize("name", [SHARED, "llama-relu"])
def test_company_threads_and_saved_texts(tmp_path: Path, name: str) -> None:
    """A few tokens of several texts, other threads in between, a text that goes on where it was saved."""
    prompt = [token % 64 for token in PROMPT]
    plans = (None, RULE)
    found = []
    for rule in plans:
        engine = opened(name, tmp_path, rule, n_sequences=3, n_ctx=384)
        rows = []
        for at in range(0, 12, 2):
            pieces = [Piece(i, prompt[at : at + (2 if i == 2 else 1)], Wanted.ALL) for i in range(3)]
            rows += engine.step(pieces)
        saved, ids = engine.save(2), list(engine.tokens_of(2))
        engine.use_threads(2)
        rows += engine.step([Piece(0, prompt[12:13], Wanted.ALL)])
        engine.truncate(0, 2)
        engine.restore(2, ids, saved)
        rows += engine.step([Piece(2, prompt[12:14], Wanted.ALL), Piece(1, prompt[12:13], Wanted.ALL)])
        found.append(np.concatenate(rows))
    check_logits(found[1], found[0])
    assert engine.stats.uploads > 4


@pytest.mark.parametrize("name", ["gpt-oss", "llama-relu"])
def test_what_was_proposed_in_vain_leaves_no_heat(tmp_path: Path, name: str) -> None:
    """Nor counts of chosen experts and of neurons. So large a margin that the same stay hot with and without drafts."""
    still = HeatRule(half_life=6, margin=1e9, uploads=2, neurons=8)
    text, heats = [token % 64 for token in PROMPT], []
    plain = opened(name, tmp_path, still, drafting=True)
    for proposed in (0, 3):
        engine = plain if not proposed else opened(name, tmp_path, still, drafting=True)
        engine.prefill(text[:5])
        at = 5
        while at < 26:
            ids = text[at : at + 1 + proposed]
            engine.step([Piece(0, [*ids[:-1], (ids[-1] + 1) % 64] if proposed else ids, stepwise=True)])
            for i in range(1, proposed):
                engine.stats.trials.accept(0, i)
            at += max(1, proposed)
            engine.truncate(at)
        adaptive = backend_of(engine)._adaptive
        assert adaptive is not None
        heats.append(adaptive._heat._heat[:, :-1])
    np.testing.assert_array_equal(engine.stats.routed, plain.stats.routed)
    np.testing.assert_array_equal(engine.stats.counts, plain.stats.counts)
    assert engine.stats.hot == plain.stats.hot
    assert engine.neurons() == plain.neurons() or name == "llama-relu"  # who was chosen last
    np.testing.assert_allclose(heats[1], heats[0])
    assert heats[0].any()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gpt-oss", None),
        ("llama4", RULE),
        ("gemma4-experts", RULE),
        ("nemotron_h_moe-latents", RULE),
        ("llama-relu", RULE),
    ],
)
def test_what_is_cold_passes_through_the_device(tmp_path: Path, name: str, rule: HeatRule | None) -> None:
    """Of long batches, as without; who was chosen is counted and heats, too."""
    wanted = told(opened(name, tmp_path, None))
    engine = opened(name, tmp_path, rule, stream_from=3)
    check_logits(told(engine), wanted)
    assert (engine.stats.uploads > 0) == (rule is not None)
    routers = [routing_of(layer.ffn.selection) for layer in load_model(model_of(name).open(tmp_path)).layers]
    assert engine.stats.routed[:, 0].tolist() == [36 * one.router.n_chosen if one else 0 for one in routers]


def test_nobody_waits_for_it(tmp_path: Path) -> None:
    """Once a divided layer and once for the logits, as without."""
    waits = []
    for rule in (None, RULE):
        engine = opened(SHARED, tmp_path, rule)
        engine.prefill(PROMPT[:5])
        before = waits_of(engine)
        for token in PROMPT[5:12]:
            engine.decode(token)
        waits.append(waits_of(engine) - before)
    assert engine.stats.uploads > 0
    assert waits[0] == waits[1]


def test_hits_are_counted_without_adapting(tmp_path: Path) -> None:
    """Of all experts chosen, those that lie on the GPU: all, some, and none."""
    engine = opened(SHARED, tmp_path, None)
    told(engine)
    routed = engine.stats.routed
    assert (routed[:, 0] == routed[0, 0]).all()
    assert 0 < routed[:, 1].sum() < routed[:, 0].sum()
    engine.stats.reset()
    assert engine.stats.hit_rate is None
