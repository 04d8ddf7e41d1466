"""The sparse FFN of many tokens, against float64 sums over each token's own neurons."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.gemm import make_workspace
from powerinfer_cli.kernels.program import assemble
from powerinfer_cli.kernels.sparse_batch import make_sparse_workspace, sparse_batch
from powerinfer_cli.kernels.sparse_token import ALWAYS, ASK, NEVER, Neurons, Predictor
from powerinfer_cli.kernels.team import Team
from powerinfer_cli.kernels.vectors import Vectors
from tests.helpers.kernel_data import Floats, pass_on_rung, random_vectors, values_for, weight_rows

TEAM = Team(3)
Q4_0, F32 = GGMLType.Q4_0, GGMLType.F32
RANK = 64


@dataclass
class Layer:
    """Neurons, and what their matrices hold, in float64."""

    neurons: Neurons
    predictor: Predictor | None
    gate: Floats | None
    up: Floats
    down_t: Floats
    fc2: Floats


def layer(
    kinds: tuple[GGMLType, GGMLType, GGMLType] = (Q4_0, Q4_0, Q4_0),
    n_ff: int = 70,
    n: int = 96,
    *,
    gated: bool = True,
    biases: bool = False,
    relu_on_up: bool = False,
    predicted: bool = True,
    threads: int = 0,
) -> Layer:
    rng = np.random.default_rng(5)
    (gate, w_gate), (up, w_up), (down, w_down) = (
        weight_rows(kind, n_ff, n, seed=i, scratch_threads=threads) for i, kind in enumerate(kinds)
    )
    vectors = [rng.standard_normal(m).astype(np.float32) / 4 for m in (n_ff, n_ff, n)] if biases else [None] * 3
    fc2, w_fc2 = weight_rows(F32, n_ff, RANK, seed=7)
    modes = rng.choice(np.array([NEVER, ASK, ASK, ASK, ALWAYS], np.uint8), n_ff)
    return Layer(
        Neurons(gate if gated else None, up, down, *vectors, relu_on_up),
        Predictor(fc2, modes, 0.1) if predicted else None,
        w_gate if gated else None,
        w_up,
        w_down,
        w_fc2,
    )


def run(
    made: Layer, x: Vectors, hidden: Vectors, tokens: int, threads: int
) -> tuple[npt.NDArray[np.float32], list[int]]:
    n_ff, n = made.neurons.down_t.n_rows, made.neurons.down_t.n_cols
    room = len(x.floats)
    work = make_sparse_workspace(3, room, n, n_ff)
    for array in vars(work).values():
        array.view(np.uint8).reshape(-1)[:] = 0xFF
    products = make_workspace(3, room, RANK)
    out, counts = np.full((room, n + 5), np.nan, np.float32), np.zeros(2, np.int64)
    state = np.array([tokens, 0], np.int64)
    operations = sparse_batch(state, x, hidden, made.neurons, made.predictor, out, counts, products, work)
    TEAM.run(assemble(operations).table, threads)
    assert np.isnan(out[tokens:]).all()
    assert np.isnan(out[:, n:]).all()
    return out[:tokens, :n], counts.tolist()


def plain(made: Layer, x: Vectors, hidden: Vectors, tokens: int) -> tuple[Floats, Floats, list[int]]:
    """The result, the sums of its terms' absolute values, and the counts."""
    neurons, n_ff = made.neurons, len(made.up)
    mask = np.ones((tokens, n_ff), bool)
    if made.predictor:
        modes = made.predictor.modes
        logits = hidden.floats[:tokens, :RANK].astype(np.float64) @ made.fc2.T
        mask = (modes == ALWAYS) | ((modes == ASK) & (logits >= made.predictor.threshold))
    first, rows, bias = made.gate, neurons.gate, neurons.gate_bias
    if first is None or rows is None:
        first, rows, bias = made.up, neurons.up, neurons.up_bias
    value = values_for(rows.format.type, x)[:tokens] @ first.T + (0 if bias is None else bias)
    value = np.maximum(value, 0) * mask
    counts = [int(mask.sum()), int((value > 0).sum())]
    if neurons.gate is not None:
        up = values_for(neurons.up.format.type, x)[:tokens] @ made.up.T
        up += 0 if neurons.up_bias is None else neurons.up_bias
        value *= np.maximum(up, 0) if neurons.relu_on_up else up
    shift = 0 if neurons.down_bias is None else neurons.down_bias
    return value @ made.down_t + shift, np.abs(value) @ np.abs(made.down_t) + np.abs(shift), counts


def check(made: Layer, tokens: int = 9, room: int = 9, threads: int = 2) -> None:
    n = made.neurons.up.n_cols
    x, hidden = random_vectors(room, n), random_vectors(room, RANK, seed=2)
    out, counts = run(made, x, hidden, tokens, threads)
    wanted, size, wanted_counts = plain(made, x, hidden, tokens)
    assert counts == wanted_counts
    assert np.abs(out - wanted).max(initial=0) <= 3e-6 * max(1, size.max(initial=0))
    if tokens > 3:
        assert 0 < counts[1] < counts[0]
        assert np.abs(wanted).max() > 0.01


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format(kind: GGMLType) -> None:
    f = FORMATS[kind]
    whole = 512 if f.group == 16 or "_K" in kind.name or kind is GGMLType.IQ4_XS else 544
    check(layer((kind, kind, kind), n=555 if f.is_float else whole))


@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("n_ff", [1, 64, 1100])
def test_odd_sizes(tokens: int, n_ff: int) -> None:
    made = layer(n_ff=n_ff)
    if n_ff > 1:
        check(made, tokens, 40, 3)
    else:
        x, hidden = random_vectors(40, 96), random_vectors(40, RANK, seed=2)
        wanted, _, counts = plain(made, x, hidden, tokens)
        out, found = run(made, x, hidden, tokens, 3)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)
        assert found == counts


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("relu_on_up", [True, False])
@pytest.mark.parametrize("predicted", [True, False])
def test_kinds_of_ffn(gated: bool, relu_on_up: bool, predicted: bool) -> None:
    check(layer(gated=gated, relu_on_up=relu_on_up, predicted=predicted, biases=True))


def test_matrices_of_several_types() -> None:
    check(layer((GGMLType.Q6_K, GGMLType.Q4_K, GGMLType.F16), n=512))
    check(layer((GGMLType.BF16, GGMLType.Q8_0, GGMLType.Q2_K), n=512, biases=True))


def test_rows_as_in_the_file() -> None:
    check(layer((GGMLType.Q4_0, GGMLType.Q5_1, GGMLType.Q8_0), threads=3), threads=3)


def test_same_bits_whatever_the_threads_and_the_batch() -> None:
    made = layer(n_ff=1100, n=544)
    x, hidden = random_vectors(30, 544), random_vectors(30, RANK, seed=2)
    one, counts = run(made, x, hidden, 30, 1)
    for threads in (2, 3):
        out, found = run(made, x, hidden, 30, threads)
        assert np.array_equal(out, one)
        assert found == counts
    assert np.array_equal(run(made, x, hidden, 7, 2)[0], one[:7])


@pytest.mark.parametrize("rung", ["avx2", "any"])
@pytest.mark.timeout(600)
def test_lower_rung(rung: str) -> None:
    pass_on_rung(__file__, rung)
