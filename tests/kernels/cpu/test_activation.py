"""The dense FFN's middle, against float64; and its records, against a quantisation in NumPy."""

from math import erf

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.kernels.cpu.activation import activate
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model import Activation
from tests.helpers.kernels.teams import team_of
from tests.helpers.rounding import CURVE, THRESHOLD, bent, curve_of

pytestmark = pytest.mark.rungs

TEAM = team_of(3)
Floats = npt.NDArray[np.float64]


def activated(x: Floats, activation: Activation) -> Floats:
    formulas = {
        Activation.RELU: lambda: np.maximum(x, 0),
        Activation.RELU_SQUARED: lambda: np.maximum(x, 0) ** 2,
        Activation.FATRELU: lambda: np.where(x > THRESHOLD.threshold, x, 0),
        Activation.SILU: lambda: x / (1 + np.exp(-x)),
        Activation.GELU: lambda: x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2,
        Activation.GELU_TANH: lambda: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
        Activation.XIELU: lambda: bent(x, CURVE),
        Activation.CLAMPED_SWISH: lambda: np.minimum(x, 7) / (1 + np.exp(-1.702 * np.minimum(x, 7))),
    }
    return formulas[activation]()


def inputs(room: int, n: int, seed: int) -> Vectors:
    """Random numbers, with large and small ones among them."""
    made = make_vectors(room, n, records=False)
    rng = np.random.default_rng(seed)
    made.floats[:, :n] = rng.standard_normal((room, n)) * rng.choice([1e-4, 1.0, 8.0, 60.0], (room, n))
    made.floats[0, : min(n, 4)] = [0.0, -0.0, 90.0, -90.0][: min(n, 4)]
    return made


def poisoned(room: int, n: int) -> Vectors:
    made = make_vectors(room, n)
    made.floats[:], made.records[:] = np.nan, 0xFF
    return made


def run(gate: Vectors | None, up: Vectors, out: Vectors, activation: Activation, tokens: int, **flags: bool) -> None:
    state = np.array([tokens, 0], np.int64)
    gates, curve = None if gate is None else gate.floats, curve_of(activation)
    operation = activate(state, gates, up.floats, out, activation, curve=curve, **flags)
    TEAM.run(assemble([operation]).table)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("n", [1, 31, 96, 513, 1030])
def test_values(activation: Activation, gated: bool, n: int) -> None:
    gate, up, out = inputs(4, n, 1), inputs(4, n, 2), poisoned(4, n)
    run(gate if gated else None, up, out, activation, 3)
    a, b = gate.floats[:3].astype(np.float64), up.floats[:3].astype(np.float64)
    if gated and activation.bends_up:
        b[:, :n] = 1 + b[:, :n].clip(-7, 7)
    wanted = activated(a, activation) * b if gated else activated(b, activation)
    wanted[:, n:] = 0.0
    rest = 1.0 if activation is Activation.XIELU else np.abs(a if gated else b)  # erf's error, and e**x - 1's
    size = rest * np.abs(b) if gated else rest
    assert (np.abs(out.floats[:3] - wanted) <= 1e-6 * np.abs(wanted) + 2e-7 * size).all()
    assert not out.floats[:3, n:].any()
    assert np.isnan(out.floats[3]).all()
    assert (out.records[3] == 0xFF).all()


@pytest.mark.parametrize("n", [7, 96, 1030])
def test_relu_on_gate_and_up(n: int) -> None:
    gate, up, out = inputs(2, n, 3), inputs(2, n, 4), poisoned(2, n)
    run(gate, up, out, Activation.RELU, 2, relu_on_up=True)
    np.testing.assert_array_equal(out.floats, np.maximum(gate.floats, 0) * np.maximum(up.floats, 0))


@pytest.mark.parametrize("n", [32, 50, 1030])
def test_records_are_the_values_quantised(n: int) -> None:
    gate, up, out = inputs(3, n, 5), inputs(3, n, 6), poisoned(3, n)
    run(gate, up, out, Activation.SILU, 3)
    p = out.stride
    groups = out.floats.reshape(3, -1, 32)
    scales = np.abs(groups).max(axis=2) / np.float32(127)
    q = out.records[:, :p].view(np.int8).reshape(groups.shape)
    found = np.ascontiguousarray(out.records[:, p : p + p // 8]).view(np.float32)
    np.testing.assert_allclose(found, scales, rtol=1e-6)
    assert np.abs(q * found[..., None] - groups).max() <= 0.51 * scales.max()
    assert (np.abs(q).max(axis=2)[scales > 1e-30] == 127).all()
    sums = np.ascontiguousarray(out.records[:, p + p // 8 : p + p // 4]).view(np.int32)
    np.testing.assert_array_equal(sums, q.astype(np.int32).sum(axis=2))
    halves = np.ascontiguousarray(out.records[:, p + p // 4 : p + p // 2]).view(np.int32)
    np.testing.assert_array_equal(halves, q.astype(np.int32).reshape(3, -1, 16).sum(axis=2))


def test_the_result_may_lie_where_up_was() -> None:
    gate, up, apart = inputs(3, 700, 7), inputs(3, 700, 8), poisoned(3, 700)
    run(gate, up, apart, Activation.GELU, 3)
    there = Vectors(700, up.floats, apart.records.copy())
    run(gate, up, there, Activation.GELU, 3)
    np.testing.assert_array_equal(there.floats, apart.floats)
    np.testing.assert_array_equal(there.records, apart.records)
