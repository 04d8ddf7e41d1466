"""The sparse FFN of one token, against float64 sums over its own neurons, with buffers poisoned by NaN."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.sparse.asking import Predictor
from powerinfer_cli.kernels.cpu.sparse.token import NeuronMask, sparse_token
from powerinfer_cli.kernels.cpu.vectors import Vectors, aligned
from powerinfer_cli.kernels.formats import FORMATS, padded
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model import Activation
from tests.helpers.kernels.kernel_data import random_vectors
from tests.helpers.kernels.sparse_layers import BUNDLED, F32, Q4_0, RANK, SparseLayer, plain_ffn, sparse_layer
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs

TEAM = team_of(3)


def run(
    made: SparseLayer, x: Vectors, hidden: Vectors, predictor: Predictor | NeuronMask | None, threads: int
) -> tuple[npt.NDArray[np.float32], list[int]]:
    n = made.neurons.down.weight.n_cols
    out, counts = aligned(padded(n) * 4).view(np.float32), np.zeros(2, np.int64)
    out[:] = np.nan
    program = assemble(sparse_token(x, hidden, made.neurons, predictor, out, counts))  # keeps what it points into
    TEAM.run(program.table, threads)
    return out[:n], counts.tolist()


def check(made: SparseLayer, threads: int = 2) -> None:
    x, hidden = random_vectors(1, made.neurons.up.weight.n_cols), random_vectors(1, RANK, seed=2)
    out, counts = run(made, x, hidden, made.predictor, threads)
    wanted, size, wanted_counts = plain_ffn(made, x, hidden, 1)
    assert counts == wanted_counts
    assert np.abs(out - wanted[0]).max() <= 3e-6 * max(1, size.max())


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format(kind: GGMLType) -> None:
    f = FORMATS[kind]
    whole = 512 if f.group == 16 or "_K" in kind.name or kind is GGMLType.IQ4_XS else 544
    check(sparse_layer((kind, kind, kind), n=555 if f.is_float else whole))


@pytest.mark.parametrize("n_ff", [1, 31, 64, 1100])
def test_odd_sizes(n_ff: int) -> None:
    check(sparse_layer(n_ff=n_ff), 3)


@pytest.mark.parametrize("kind", BUNDLED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n_ff", [1, 333])
def test_bundled_predictors(kind: GGMLType, n_ff: int) -> None:
    check(sparse_layer(n_ff=n_ff, asking=kind))


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


def test_same_bits_whatever_the_threads() -> None:
    made = sparse_layer(n_ff=1100, n=544)
    x, hidden = random_vectors(1, 544), random_vectors(1, RANK, seed=2)
    one, counts = run(made, x, hidden, made.predictor, 1)
    for threads in (2, 3):
        out, found = run(made, x, hidden, made.predictor, threads)
        assert np.array_equal(out, one)
        assert found == counts


def test_told_by_somebody_else() -> None:
    made = sparse_layer(n_ff=300, settled=False)  # else parts have other neurons
    x, hidden = random_vectors(1, 96), random_vectors(1, RANK, seed=2)
    through = made.through(hidden, 1)[0]
    told = NeuronMask(through.astype(np.uint8), through.astype(np.int64))
    asked = run(made, x, hidden, made.predictor, 2)
    given = run(made, x, hidden, told, 2)
    assert np.array_equal(given[0], asked[0])
    assert given[1] == asked[1]
    assert 0 < given[1][1] < given[1][0] < 300
