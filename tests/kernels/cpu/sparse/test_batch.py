"""The sparse FFN of many tokens, against float64 sums over each token's own neurons."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.gemm import make_workspace
from powerinfer_cli.kernels.cpu.sparse.batch import make_sparse_workspace, sparse_batch
from powerinfer_cli.kernels.cpu.sparse.token import NeuronMask
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model import Activation
from tests.helpers.kernels.kernel_data import random_vectors
from tests.helpers.kernels.sparse_layers import BUNDLED, F32, Q4_0, RANK, SparseLayer, plain_ffn, sparse_layer
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs

TEAM = team_of(3)


def run(
    made: SparseLayer,
    x: Vectors,
    hidden: Vectors,
    tokens: int,
    threads: int,
    through: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.float32], list[int]]:
    n_ff, n = made.neurons.down.weight.n_rows, made.neurons.down.weight.n_cols
    room = len(x.floats)
    work = make_sparse_workspace(3, room, n, n_ff)
    for array in vars(work).values():
        array.view(np.uint8).reshape(-1)[:] = 0xFF
    if through is not None:
        work.logits[:tokens] = through
    products = make_workspace(3, room, RANK)
    out, counts = np.full((room, n + 5), np.nan, np.float32), np.zeros(2, np.int64)
    state = np.array([tokens, 0], np.int64)
    operations = sparse_batch(state, x, hidden, made.neurons, made.predictor, out, counts, products, work)
    TEAM.run(assemble(operations).table, threads)
    assert np.isnan(out[tokens:]).all()
    assert np.isnan(out[:, n:]).all()
    return out[:tokens, :n], counts.tolist()


def check(made: SparseLayer, tokens: int = 9, room: int = 9, threads: int = 2) -> None:
    n = made.neurons.up.weight.n_cols
    x, hidden = random_vectors(room, n), random_vectors(room, RANK, seed=2)
    out, counts = run(made, x, hidden, tokens, threads)
    wanted, size, wanted_counts = plain_ffn(made, x, hidden, tokens)
    assert counts == wanted_counts
    assert np.abs(out - wanted).max(initial=0) <= 3e-6 * max(1, size.max(initial=0))
    if tokens > 3:
        assert 0 < counts[1] <= counts[0]
        assert (counts[1] < counts[0]) == made.neurons.activation.has_exact_zeros
        assert np.abs(wanted).max() > 0.01


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format(kind: GGMLType) -> None:
    f = FORMATS[kind]
    whole = 512 if f.group == 16 or "_K" in kind.name or kind is GGMLType.IQ4_XS else 544
    check(sparse_layer((kind, kind, kind), n=555 if f.is_float else whole))


@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("n_ff", [1, 64, 1100])
def test_odd_sizes(tokens: int, n_ff: int) -> None:
    made = sparse_layer(n_ff=n_ff)
    if n_ff > 1:
        check(made, tokens, 40, 3)
    else:
        x, hidden = random_vectors(40, 96), random_vectors(40, RANK, seed=2)
        wanted, _, counts = plain_ffn(made, x, hidden, tokens)
        out, found = run(made, x, hidden, tokens, 3)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)
        assert found == counts


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("relu_on_up", [True, False])
@pytest.mark.parametrize("predicted", [True, False])
def test_kinds_of_ffn(gated: bool, relu_on_up: bool, predicted: bool) -> None:
    check(sparse_layer(gated=gated, relu_on_up=relu_on_up, predicted=predicted, biases=True))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(
    "activation", [kind for kind in Activation if kind is not Activation.RELU and not kind.bends_up]
)
def test_ffn_of_other_activations(gated: bool, activation: Activation) -> None:
    for kinds in ((Q4_0, Q4_0, Q4_0), (F32, F32, F32)):
        made = sparse_layer(kinds, n_ff=1100, gated=gated, activation=activation, biases=True)
        check(made)
        check(replace(made, predictor=None))


def test_matrices_of_several_types() -> None:
    check(sparse_layer((GGMLType.Q6_K, GGMLType.Q4_K, GGMLType.F16), n=512))
    check(sparse_layer((GGMLType.BF16, GGMLType.Q8_0, GGMLType.Q2_K), n=512, biases=True))


def test_rows_as_in_the_file() -> None:
    check(sparse_layer((GGMLType.Q4_0, GGMLType.Q5_1, GGMLType.Q8_0), threads=3), threads=3)


def test_same_bits_whatever_the_threads_and_the_batch() -> None:
    made = sparse_layer(n_ff=1100, n=544)
    x, hidden = random_vectors(30, 544), random_vectors(30, RANK, seed=2)
    one, counts = run(made, x, hidden, 30, 1)
    for threads in (2, 3):
        out, found = run(made, x, hidden, 30, threads)
        assert np.array_equal(out, one)
        assert found == counts
    assert np.array_equal(run(made, x, hidden, 7, 2)[0], one[:7])


@pytest.mark.parametrize("kind", BUNDLED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n_ff", [1, 333])
def test_bundled_predictors(kind: GGMLType, n_ff: int) -> None:
    check(sparse_layer(n_ff=n_ff, asking=kind), tokens=9 if n_ff > 1 else 3)


def test_told_by_somebody_else() -> None:
    made = sparse_layer(n_ff=300)
    x, hidden = random_vectors(20, 96), random_vectors(20, RANK, seed=2)
    through = made.through(hidden, 20)
    asked = run(made, x, hidden, 20, 2)
    made.predictor = NeuronMask(np.zeros(300, np.uint8), np.zeros(300, np.int64))
    given = run(made, x, hidden, 20, 2, through)
    assert np.array_equal(given[0], asked[0])
    assert given[1] == asked[1]
