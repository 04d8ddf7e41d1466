"""The order in which neurons lie: most used ones together, in each part; and that nothing but sums' order changes."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.drafting import DraftingEngine, DraftOptions, NgramDrafter
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK, NEVER
from powerinfer_cli.kernels.cpu.sparse.token import borders_of
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import ActivationStatistics
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from powerinfer_cli.runtime.cpu import weights
from powerinfer_cli.runtime.cpu.neuron_order import neuron_order
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, RELU_CASES, tiny_model

OPTIONS = EngineOptions(n_ctx=64, n_threads=2, type_k="f32", type_v="f32")
TOKENS = 50_000


@pytest.mark.parametrize("n", [5632, 2049, 176, 17, 1])
def test_each_part_has_its_share_of_the_most_used(n: int) -> None:
    rng = np.random.default_rng(n)
    uses = rng.random(n) ** 4
    order = neuron_order(uses, np.full(n, ASK, np.uint8))
    assert sorted(order) == list(range(n))
    borders = np.unique(borders_of(n))
    parts = [uses[order[begin:end]] for begin, end in itertools.pairwise(borders)]
    assert all((np.diff(part) <= 0).all() for part in parts)
    if n == 5632:
        means = [part.mean() for part in parts]
        assert max(means) < 1.03 * min(means)
        given = [uses[begin:end].mean() for begin, end in itertools.pairwise(borders)]
        assert max(given) > 1.1 * min(given)


def test_neurons_that_never_fire_lie_behind_all() -> None:
    modes = np.full(100, ASK, np.uint8)
    modes[::3], modes[1] = NEVER, ALWAYS
    order = neuron_order(np.arange(100.0), modes)
    never = np.flatnonzero(modes == NEVER)
    np.testing.assert_array_equal(order[-len(never) :], never)
    assert 98 in order[np.unique(borders_of(66))[:-1]]  # the most used that is asked about: a part's first
    np.testing.assert_array_equal(neuron_order(np.ones(5), np.full(5, NEVER, np.uint8)), range(5))


def statistics(n_ff: int) -> ActivationStatistics:
    """Which settle nothing: of too few tokens."""
    rng = np.random.default_rng(3)
    return ActivationStatistics(tuple(rng.integers(0, 5000, n_ff).astype(np.float64) for _ in range(2)))


def settled_statistics(n_ff: int) -> ActivationStatistics:
    """Of enough tokens: a third never fire, in pieces, a ninth always do."""
    rng = np.random.default_rng(4)
    counts = [rng.integers(1, TOKENS, n_ff).astype(np.float64) for _ in range(2)]
    for layer, one in enumerate(counts):
        one[layer::3], one[layer + 1 :: 9] = 0, TOKENS
    return ActivationStatistics(tuple(counts), TOKENS)


def engines(folder: Path, case: str) -> tuple[Engine, Engine]:
    """Of a model whose rows are all packed, without statistics and with."""
    tiny = tiny_model(case)
    file = tiny.file.sparsified(random_predictors(tiny, (32, 64))).stored_as(GGMLType.Q8_0)
    options = replace(OPTIONS, n_ctx=192, n_sequences=3)
    n_ff = len(tiny.file.tensors["blk.0.ffn_up.weight"])
    gguf = file.open(folder)
    return Engine.load(gguf, options), Engine.load(gguf, options, statistics(n_ff))


def told(engine: Engine) -> npt.NDArray[np.float32]:
    """Of a batch, of single tokens, and of a few at a time."""
    found = [engine.logits(PROMPT[:9]), *(engine.decode(token)[None] for token in PROMPT[9:])]
    few = engine.step([Piece(1, [5]), Piece(2, [6])])
    return np.concatenate([*found, *(answer[None] for answer in few if answer is not None)])


def continued(engine: Engine) -> list[int]:
    """The likeliest tokens behind the prompt."""
    (logits,), found = engine.step([Piece(0, PROMPT)]), []
    for _ in range(24):
        assert logits is not None
        found.append(int(logits.argmax()))
        (logits,) = engine.step([Piece(0, (found[-1],), stepwise=True)])
    return found


@pytest.mark.parametrize("case", RELU_CASES)
def test_the_order_changes_sums_alone(tmp_path: Path, case: str) -> None:
    plain, ordered = engines(tmp_path, case)
    wanted, found = told(plain), told(ordered)
    check_logits(found, wanted)
    assert not np.array_equal(found, wanted)  # they were added in another order


@pytest.mark.parametrize("case", RELU_CASES)
def test_settled_neurons_are_ordered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """NEVER, ALWAYS and ASK at once: as in the file's order, and to the bit by one thread or two, drafted or not."""
    tiny = tiny_model(case)
    predictors = random_predictors(tiny, (32, 64))
    gguf = tiny.file.sparsified(predictors).stored_as(GGMLType.Q8_0).open(tmp_path)
    settled = settled_statistics(len(tiny.file.tensors["blk.0.ffn_up.weight"]))
    options = replace(OPTIONS, n_ctx=192, n_sequences=3)
    one = Engine.load(gguf, replace(options, n_threads=1), settled)
    ordered = told(one)
    np.testing.assert_array_equal(told(Engine.load(gguf, options, settled)), ordered)

    ahead = DraftingEngine(
        load_model(gguf),
        options,
        settled,
        drafter=lambda engine: NgramDrafter(engine.n_sequences, 1, 4),
        drafts=DraftOptions(most=4),
    )
    assert continued(ahead) == continued(Engine.load(gguf, options, settled))
    assert ahead.drafted(0).accepted > 0

    assert not np.array_equal(told(Engine.load(gguf, options)), ordered)  # predictors say otherwise
    monkeypatch.setattr(weights, "_movable", lambda *_: False)
    in_file = told(Engine.load(gguf, options, settled))
    check_logits(ordered, in_file)
    assert not np.array_equal(ordered, in_file)


@pytest.mark.parametrize("case", RELU_CASES)
def test_recorded_neurons_are_in_the_order_of_the_file(tmp_path: Path, case: str) -> None:
    shown: list[list[np.ndarray]] = []
    for engine in engines(tmp_path, case):
        shown.append([])
        engine.record(PROMPT, lambda _layer, _x, activations: shown[-1].append(activations.copy()))
    for wanted, found in zip(*shown, strict=True):
        check_logits(found, wanted)
        assert wanted.std() > 0.1
