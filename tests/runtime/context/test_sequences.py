"""Several sequences in one engine: each is what it is alone, whatever else is in the step."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import ContextFull, Engine, Piece, Wanted, common_prefix
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB, RELU_CASES, tiny_model

DENSE = ("llama-yarn", "llama-biases", "qwen2", "qwen3", "falcon-40b", "opt")
N_CTX = 700  # pages of 128: sequences get theirs in turns


@dataclass
class Texts:
    """Random texts in an engine, and what it has told of them: the last logits after each token that was asked for."""

    engine: Engine
    random: np.random.Generator
    ids: list[list[int]] = field(default_factory=list)
    logits: list[dict[int, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = [[] for _ in range(self.engine.n_sequences)]
        self.logits = [{} for _ in self.ids]

    def step(self) -> None:
        """A token for some, a piece of a prompt for one."""
        chosen = self.random.permutation(len(self.ids))[: self.random.integers(1, len(self.ids) + 1)]
        pieces = []
        for i, sequence in enumerate(chosen.tolist()):
            size = int(self.random.integers(2, 40)) if i == 0 and self.random.random() < 0.6 else 1
            ids = self.random.integers(0, N_VOCAB, size).tolist()
            if len(ids) <= min(self.engine.room(sequence), self.engine.n_free - sum(len(p.ids) for p in pieces)):
                wanted = Wanted.NOTHING if self.random.random() < 0.3 else Wanted.LAST
                pieces.append(Piece(sequence, ids, wanted))
        if not pieces:
            return
        for piece, answer in zip(pieces, self.engine.step(pieces), strict=True):
            self.ids[piece.sequence] += piece.ids
            if answer is not None:
                self.logits[piece.sequence][len(self.ids[piece.sequence])] = answer

    def truncate(self) -> None:
        sequence = int(self.random.integers(len(self.ids)))
        n = int(self.random.integers(len(self.ids[sequence]) + 1))
        self.engine.truncate(n, sequence)
        del self.ids[sequence][n:]
        self.logits[sequence] = {at: row for at, row in self.logits[sequence].items() if at <= n}


@pytest.mark.parametrize(
    ("name", "sparse"), [*((name, False) for name in DENSE), *((name, True) for name in RELU_CASES)]
)
def test_each_is_what_it_is_alone(tmp_path: Path, name: str, sparse: bool) -> None:
    tiny = tiny_model(name)
    file = tiny.file.sparsified(random_predictors(tiny)) if sparse else tiny.file
    options = {"n_ubatch": 64}
    n_ctx = 100 if name == "opt" else N_CTX  # positions are learned
    texts = Texts(file.engine(tmp_path, n_ctx=n_ctx, n_sequences=4, unified=True, **options), np.random.default_rng(3))
    for round_ in range(40):
        texts.step()
        if round_ % 7 == 6:
            texts.truncate()
    alone = file.engine(tmp_path, n_ctx=n_ctx, **options)
    for ids, told in zip(texts.ids, texts.logits, strict=True):
        alone.reset()
        wanted = alone.logits(ids)
        for at, row in told.items():
            check_logits(row, wanted[at - 1])
    assert [list(texts.engine.tokens_of(i)) for i in range(4)] == texts.ids


def engine_of(tmp_path: Path, **options: object) -> Engine:
    return tiny_model("llama").file.engine(tmp_path, **{"n_sequences": 3, "n_ctx": 300, **options})


def fed(engine: Engine, sequence: int, ids: Sequence[int]) -> np.ndarray:
    """The logits after the last, which come a step of 16 at a time."""
    for start in range(0, len(ids), 16):
        (answer,) = engine.step([Piece(sequence, ids[start : start + 16])])
    assert answer is not None
    return answer


def test_what_pieces_want(tmp_path: Path) -> None:
    engine, ids = engine_of(tmp_path), [list(range(9)), [5], [7, 8]]
    kinds = [Wanted.ALL, Wanted.HIDDEN, Wanted.NOTHING]
    everything, hidden, nothing = engine.step([Piece(i, part, kinds[i]) for i, part in enumerate(ids)])
    assert nothing is None
    assert hidden is not None
    assert hidden.shape == (1, engine.config.n_embd)
    alone = engine_of(tmp_path)
    np.testing.assert_allclose(everything, alone.logits(ids[0]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(hidden, alone.step([Piece(1, [5], Wanted.HIDDEN)])[0], rtol=0, atol=1e-5)


def test_hidden_states_become_logits(tmp_path: Path) -> None:
    """They are what the head multiplies: nothing but its matrix is between them and the logits."""
    engine = engine_of(tmp_path, n_ubatch=64)
    (hidden,) = engine.step([Piece(0, list(range(40)), Wanted.HIDDEN)])
    (logits,) = engine.step([Piece(1, list(range(40)), Wanted.ALL)])
    assert hidden is not None
    matrix, *_ = np.linalg.lstsq(hidden, logits, rcond=None)
    np.testing.assert_allclose(hidden @ matrix, logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("unified", [False, True])
def test_full(tmp_path: Path, unified: bool) -> None:
    engine = engine_of(tmp_path, unified=unified)
    fed(engine, 0, [1] * 90)
    with pytest.raises(ContextFull, match=f"{300 if unified else 100}: shorten the prompt, or choose a larger"):
        engine.step([Piece(0, [2]), Piece(1, [3] * (210 if unified else 101))])
    assert (len(engine.tokens_of(0)), len(engine.tokens_of(1))) == (90, 0)
    engine.step([Piece(0, [2]), Piece(1, [3] * 100)])
    assert engine.room(2) == (109 if unified else 100)
    assert engine.n_free == 109


def test_pieces_that_cannot_be(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    for pieces in ([Piece(0, [])], [Piece(0, [1]), Piece(0, [2])]):
        with pytest.raises(ValueError, match="tokens and a sequence of its own"):
            engine.step(pieces)
    with pytest.raises(PowerInferError, match="token id 99999 is not in the vocabulary"):
        engine.step([Piece(1, [3]), Piece(0, [1, 99999])])
    assert engine.n_free == 300


def test_shift_leaves_the_others_alone(tmp_path: Path) -> None:
    options = {"n_ctx": 900, "n_ubatch": 32}
    engine, other = engine_of(tmp_path, **options), engine_of(tmp_path, **options)
    random = np.random.default_rng(0)
    texts = [random.integers(0, N_VOCAB, 200).tolist() for _ in range(3)]
    for start in range(0, 200, 10):
        engine.step([Piece(i, text[start : start + 10]) for i, text in enumerate(texts)])
    engine.shift(20, 150, sequence=1)
    assert list(engine.tokens_of(1)) == texts[1][:20] + texts[1][170:]
    for i in (0, 2):
        check_logits(engine.step([Piece(i, [7])])[0], fed(other, i, [*texts[i], 7]))
    # The one that was shifted is what it is in an engine of its own.
    alone = tiny_model("llama").file.engine(tmp_path, n_ctx=300)
    alone.prefill(texts[1])
    alone.shift(20, 150)
    check_logits(engine.step([Piece(1, [7])])[0], alone.decode(7))


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_save_and_restore(tmp_path: Path, kind: str) -> None:
    options = {"type_k": kind, "type_v": kind, "n_ctx": 900}
    file = tiny_model("llama").file
    engine, ids = engine_of(tmp_path, **options), [3 + i % 90 for i in range(200)]
    fed(engine, 0, [1] * 130)
    fed(engine, 1, ids)
    saved = engine.save(1)
    later = engine_of(tmp_path, **options)
    fed(later, 2, [9] * 20)
    later.restore(2, ids, saved)
    assert list(later.tokens_of(2)) == ids
    np.testing.assert_array_equal(later.step([Piece(2, [5])])[0], engine.step([Piece(1, [5])])[0])
    wrong = copy.deepcopy(saved)
    wrong.popitem()
    fed(later, 1, [7] * 40)
    for ids_given, stored in ((ids[:-1], saved), (ids, wrong), (ids, {**saved, "99.k": saved["0.k"]})):
        with pytest.raises(PowerInferError, match="saved context"):
            later.restore(1, ids_given, stored)
    for ids_given, match in (([1] * 301, "do not fit"), ([*ids[:-1], 10**6], "not in the vocabulary")):
        with pytest.raises(PowerInferError, match=match):
            later.restore(1, ids_given, saved)
    # What was there before is there still, in its pages and to the bit.
    assert list(later.tokens_of(1)) == [7] * 40
    assert later.n_free == 900 - 201 - 40
    fed(engine, 2, [7] * 40)
    np.testing.assert_array_equal(later.step([Piece(1, [5])])[0], engine.step([Piece(2, [5])])[0])
    other = file.engine(tmp_path, n_sequences=3, **{**options, "type_k": "f16" if kind == "f32" else "f32"})
    with pytest.raises(PowerInferError, match="saved context"):
        other.restore(0, ids, saved)


@given(st.lists(st.integers(0, 2), max_size=20), st.lists(st.integers(0, 2), max_size=20), st.integers(0, 700))
def test_common_prefix(a: list[int], b: list[int], n_before: int) -> None:
    before = list(range(n_before))
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    assert common_prefix((*before, *a), [*before, *b]) == n_before + n
