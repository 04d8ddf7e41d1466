"""The sparse FFN of a few tokens: each gets to the bit what it would get alone, and memory behind is not written."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.matvec import token_panels
from powerinfer_cli.kernels.cpu.sparse.few import sparse_few
from powerinfer_cli.kernels.cpu.sparse.token import NeuronMask, sparse_token
from powerinfer_cli.kernels.cpu.vectors import Vectors, aligned, make_vectors
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats import FORMATS, padded
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model import Activation
from tests.helpers.kernels.kernel_data import random_vectors
from tests.helpers.kernels.sparse_layers import BUNDLED, F32, Q4_0, RANK, SparseLayer, plain_ffn, sparse_layer
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs
TEAM = team_of(3)
Outcome = tuple[npt.NDArray[np.float32], list[list[int]]]  # and by token how many were let through, and fired


def together(made: SparseLayer, x: Vectors, hidden: Vectors, tokens: int, threads: int = 2) -> Outcome:
    n, room = made.neurons.down.weight.n_cols, len(x.floats)
    out, counts = np.full((room, padded(n)), np.nan, np.float32), np.zeros((room, 2), np.int64)
    state = np.array([tokens, 0], np.int64)
    panels = token_panels(threads, max(RANK, made.neurons.up.weight.n_cols))
    panels[:] = 0xFF
    program = assemble(sparse_few(state, x, hidden, made.neurons, made.predictor, out, counts, room, panels))
    TEAM.run(program.table, threads)  # it keeps what it points into
    assert np.isnan(out[tokens:]).all()
    assert not counts[tokens:].any()
    return out[:tokens, :n], counts[:tokens].tolist()


def one_of(vectors: Vectors, t: int) -> Vectors:
    one = make_vectors(1, vectors.n)
    one.floats[0], one.records[0] = vectors.floats[t], vectors.records[t]
    return one


def alone(made: SparseLayer, x: Vectors, hidden: Vectors, t: int) -> tuple[npt.NDArray[np.float32], list[int]]:
    n = made.neurons.down.weight.n_cols
    out = aligned(padded(n) * 4).view(np.float32)
    counts = np.zeros(2, np.int64)
    program = assemble(sparse_token(one_of(x, t), one_of(hidden, t), made.neurons, made.predictor, out, counts))
    TEAM.run(program.table, 2)
    return out[:n].copy(), counts.tolist()


def check(made: SparseLayer, tokens: int = 5, room: int = 6) -> None:
    x, hidden = random_vectors(room, made.neurons.up.weight.n_cols), random_vectors(room, RANK, seed=2)
    out, counts = together(made, x, hidden, tokens)
    wanted, size, wanted_counts = plain_ffn(made, x, hidden, tokens)
    assert np.sum(counts, 0).tolist() == wanted_counts
    assert np.abs(out - wanted).max() <= 3e-6 * max(1, size.max())
    for t in range(tokens):
        wanted, own = alone(made, x, hidden, t)
        np.testing.assert_array_equal(out[t], wanted)
        assert counts[t] == own


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format(kind: GGMLType) -> None:
    f = FORMATS[kind]
    whole = 512 if f.group == 16 or "_K" in kind.name or kind is GGMLType.IQ4_XS else 544
    check(sparse_layer((kind, kind, kind), n=555 if f.is_float else whole))


@pytest.mark.parametrize("tokens", [1, 2, FEW])
@pytest.mark.parametrize("n_ff", [1, 64, 1100])
def test_odd_sizes(tokens: int, n_ff: int) -> None:
    check(sparse_layer(n_ff=n_ff), tokens, FEW)


@pytest.mark.parametrize("kind", BUNDLED, ids=lambda kind: kind.name)
def test_bundled_predictors(kind: GGMLType) -> None:
    check(sparse_layer(n_ff=333, asking=kind))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("relu_on_up", [True, False])
@pytest.mark.parametrize("predicted", [True, False])
def test_kinds_of_ffn(gated: bool, relu_on_up: bool, predicted: bool) -> None:
    check(sparse_layer(gated=gated, relu_on_up=relu_on_up, predicted=predicted, biases=True))


@pytest.mark.parametrize("activation", [one for one in Activation if not one.bends_up])
def test_activations(activation: Activation) -> None:
    for kind in (Q4_0, F32):
        made = sparse_layer((kind, kind, kind), n_ff=300, activation=activation, biases=True)
        check(made)
        check(replace(made, predictor=None))


def test_same_bits_whatever_the_threads() -> None:
    made = sparse_layer(n_ff=1100, n=544)
    x, hidden = random_vectors(7, 544), random_vectors(7, RANK, seed=2)
    one, counts = together(made, x, hidden, 7, 1)
    for threads in (2, 3):
        out, found = together(made, x, hidden, 7, threads)
        assert np.array_equal(out, one)
        assert found == counts


def test_told_by_somebody_else() -> None:
    made = sparse_layer(n_ff=300, settled=False)  # else parts have other neurons
    x, hidden = random_vectors(6, 96), random_vectors(6, RANK, seed=2)
    through = made.through(hidden, 6)
    asked = together(made, x, hidden, 6)
    bits = (1 << np.arange(6)) @ through
    made.predictor = NeuronMask(np.zeros(300, np.uint8), bits.astype(np.int64))
    given = together(made, x, hidden, 6)
    assert np.array_equal(given[0], asked[0])
    assert given[1] == asked[1]
