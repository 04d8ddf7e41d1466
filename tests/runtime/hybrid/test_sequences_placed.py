"""Several sequences in an engine whose layers are divided, and in the plain twin: each is what it is alone."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.placement import MAIN_MEMORY, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.several_texts import Event, alone, assert_same, some_events, together
from tests.helpers.tiny_models import tiny_model

N_CTX = 600  # pages of 128: sequences get theirs in turns
SEQUENCES = 3
DIVIDED = {
    "cold": ([0, 0], [0.3, 0.0], 0),
    "head in main memory": ([MAIN_MEMORY, 0], [0, 0.5], MAIN_MEMORY),
    "whole": ([0, MAIN_MEMORY], [1, 0], 0),
    "two": ([0, 1], [0.5, 1], 1),
}
CASES = [  # (model, whether it has predictors, plan)
    ("llama", False, "whole"),
    ("qwen3", False, "whole"),
    ("falcon-7b", False, "whole"),
    ("llama-relu", True, "cold"),
    ("bamboo", True, "head in main memory"),
    ("falcon-40b-relu", True, "two"),
    ("opt", True, "cold"),
]


def model_of(name: str, *, sparse: bool) -> ModelFile:
    tiny = tiny_model(name)
    file = tiny.file.first_layers(2)
    return file.sparsified(random_predictors(tiny)[:2]) if sparse else file


def engine_of(
    model: ModelFile, folder: Path, plan: Plan | None = None, stream_from: int | None = None, **options: object
) -> Engine:
    wanted = {"n_ctx": N_CTX, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options
    placement = None if plan is None else Placement(plan, DEVICES, stream_from=stream_from)
    return Engine.load(model.open(folder), EngineOptions(**wanted), placement=placement)  # type: ignore[arg-type]  # any option


def events_for(name: str) -> tuple[int, list[Event]]:
    """The context, and what happens in it. Opt's positions are learned, and few."""
    n_ctx = 120 if name == "opt" else N_CTX
    return n_ctx, some_events(SEQUENCES, n_ctx // SEQUENCES, 36)


@pytest.mark.parametrize(("name", "sparse", "plan"), CASES)
def test_each_is_what_it_is_alone(tmp_path: Path, name: str, sparse: bool, plan: str) -> None:
    model = model_of(name, sparse=sparse)
    n_ctx, events = events_for(name)
    wanted = alone(engine_of(model, tmp_path, n_ctx=n_ctx), events, SEQUENCES)
    several = {"n_ctx": n_ctx, "n_sequences": SEQUENCES, "n_ubatch": 40, "unified": True}
    assert_same(together(engine_of(model, tmp_path, reference=True, **several), events), wanted)
    divided = plan_of(model, *DIVIDED[plan])
    assert_same(together(engine_of(model, tmp_path, divided, **several), events), wanted)
    streaming = several | {"unified": False, "stream_from": 4}
    assert_same(together(engine_of(model, tmp_path, divided, **streaming), events), wanted)


@pytest.mark.parametrize("plan", DIVIDED)
def test_what_pieces_want(tmp_path: Path, plan: str) -> None:
    model = model_of("llama-relu", sparse=True)
    found = []
    for engine in (
        engine_of(model, tmp_path, n_sequences=4),
        engine_of(model, tmp_path, n_sequences=4, reference=True),
        engine_of(model, tmp_path, plan_of(model, *DIVIDED[plan]), n_sequences=4),
    ):
        kinds = [Wanted.ALL, Wanted.HIDDEN, Wanted.NOTHING, Wanted.LAST]
        pieces = [Piece(i, list(range(3, 5 + i)), kind) for i, kind in enumerate(kinds)]
        answers = engine.step(pieces)
        found.append([*answers[:2], answers[3], *engine.step([Piece(2, [7], Wanted.HIDDEN)])])
        assert answers[2] is None
    for others in found[1:]:
        for ours, theirs in zip(others, found[0], strict=True):
            assert ours is not None
            assert theirs is not None
            assert ours.shape == theirs.shape
            check_logits(ours, theirs)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_saved_context_goes_on_elsewhere(tmp_path: Path, kind: str) -> None:
    """From main memory to divided layers and back, as it was to the bit; f32 to the plain twin, too."""
    model = model_of("qwen3", sparse=False)  # its heads have 32 dimensions
    options = {"type_k": kind, "type_v": kind, "n_sequences": 2}
    plan = plan_of(model, *DIVIDED["whole"])
    first, ids = engine_of(model, tmp_path, **options), [3 + i % 90 for i in range(150)]
    first.step([Piece(0, [1] * 140)])
    first.step([Piece(1, ids)])
    saved = first.save(1)
    for other in (
        engine_of(model, tmp_path, plan, **options),
        *([engine_of(model, tmp_path, reference=True, n_sequences=2)] if kind == "f32" else []),
    ):
        other.step([Piece(1, [9] * 20)])
        other.restore(0, ids, saved)
        again = other.save(0)
        assert again.keys() == saved.keys()
        for key, part in saved.items():
            np.testing.assert_array_equal(again[key], part)
        assert list(other.tokens_of(0)) == ids
        for wrong in ({**saved, "0.k": saved["0.k"][1:]}, {**saved, "7.k": saved["0.k"]}, {"0.k": saved["0.k"]}):
            with pytest.raises(PowerInferError, match="saved context"):
                other.restore(1, ids, wrong)
            assert list(other.tokens_of(1)) == [9] * 20
        (told,) = other.step([Piece(0, [5])])
        assert told is not None
        close = 1e-4 if kind == "f32" else 0.05
        fresh = engine_of(model, tmp_path, **options)
        fresh.restore(0, ids, saved)
        np.testing.assert_allclose(told, fresh.step([Piece(0, [5])])[0], rtol=0, atol=close)


def test_pages_make_no_difference(tmp_path: Path) -> None:
    """The same bits, wherever a sequence's pages lie."""
    model = model_of("llama-relu", sparse=True)
    engine = engine_of(model, tmp_path, plan_of(model, *DIVIDED["cold"]), n_sequences=2, unified=True)
    ids, found = [3 + i % 90 for i in range(260)], []
    for between in (0, 70):
        answers = []
        for part in (ids[:100], ids[100:200], ids[200:], [5]):
            if between:
                engine.step([Piece(0, [1] * between)])
            answers.append(engine.step([Piece(1, part, Wanted.ALL)])[0])
        found.append(np.concatenate(answers))
        engine.truncate(0, 0)
        engine.truncate(0, 1)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("plan", "n_hot", "least", "most"),
    [("cold", (34, 0), 0.02, 0.6), ("whole", (112, 0), 0.1, 0.9), ("two", (56, 112), 0.5, 0.99)],
)
def test_what_is_counted(tmp_path: Path, plan: str, n_hot: tuple[int, int], least: float, most: float) -> None:
    """By layer the same as in the plain twin, and which part of it GPUs have computed."""
    model = model_of("llama-relu", sparse=True)
    plain, divided = (
        engine_of(model, tmp_path, reference=True, n_sequences=2),
        engine_of(model, tmp_path, plan_of(model, *DIVIDED[plan]), n_sequences=2),
    )
    for engine in (plain, divided):
        assert [layer.active for layer in engine.neurons()] == [None, None]
        engine.step([Piece(0, list(range(9))), Piece(1, [5])])
        engine.step([Piece(1, [6])])
    np.testing.assert_array_equal(divided.stats.counts, plain.stats.counts)
    assert plain.stats.total == 2 * 112 * 11
    assert [layer.active for layer in divided.neurons()] == [layer.active for layer in plain.neurons()]
    assert tuple(layer.n_hot for layer in divided.neurons()) == n_hot
    assert [layer.n_neurons for layer in plain.neurons()] == [112, 112]
    share = divided.stats.hot_share
    assert share is not None
    assert least < share < most
    assert plain.stats.hot_share == 0
    seconds = divided.stats.seconds
    assert 0 <= seconds.waiting + seconds.cold < seconds.total
    assert seconds.outside_cold == pytest.approx(seconds.total - seconds.cold)
    assert (seconds.cold > 0) == (plan != "whole")
    divided.stats.reset()
    assert (divided.stats.fired, divided.stats.hot, divided.stats.seconds.total) == (0, 0, 0)


@pytest.mark.parametrize("plan", DIVIDED)
@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.Q8_0])
def test_company_changes_no_bit(tmp_path: Path, plan: str, kind: GGMLType) -> None:
    """Of what sequences write side by side."""
    model = model_of("llama-relu", sparse=True)
    model = model if kind is GGMLType.F32 else model.stored_as(kind)
    found = []
    for company in (False, True):
        engine = engine_of(model, tmp_path, plan_of(model, *DIVIDED[plan]), n_sequences=4)
        for i in range(4):
            engine.step([Piece(i, [3 + i, 4, 5 + i], Wanted.NOTHING)])
        told = []
        for token in (7, 8, 9):
            pieces = [Piece(i, [token + i]) for i in range(4)]
            steps = [pieces] if company else [[piece] for piece in pieces]
            told.append(np.stack([answer for step in steps for answer in engine.step(step) if answer is not None]))
        found.append(np.stack(told))
        assert engine.stats.predicted > engine.stats.fired > 0
    np.testing.assert_array_equal(*found)
