"""Where float32 may put a result, whatever the order of its sums: tolerances that follow the size of what is summed.

A sum of n products is off by at most n * UNIT of its terms' magnitudes in all (Higham, Accuracy and Stability of
Numerical Algorithms, 3.1), a long one by far less, for errors of both signs add up as sqrt(n); and by what its operands
were off already. A term that is wrong is off by far more.
"""

from dataclasses import dataclass
from math import erf

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import XIELU, Curve, FatReLU, Temperature

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating] | torch.Tensor

UNIT = 2.0**-24  # the largest relative error of one operation
LOGITS = 2.0**-14
_TANH = 4e-7  # what tanh is off, at most, by the kernels' formulas
_FUNCTION = 8  # operations that an exponential or an error function counts as


CURVE = XIELU(0.7, 0.9, 0.4, -0.05)
THRESHOLD = FatReLU(0.25)


def curve_of(activation: Activation) -> Curve | None:
    """Numbers for it, where it has any."""
    return {Activation.XIELU: CURVE, Activation.FATRELU: THRESHOLD}.get(activation)


def bent(x: Floats, curve: XIELU) -> Floats:
    """xIELU of x."""
    below = curve.fall * (np.expm1(np.minimum(x, curve.eps)) - x)
    return np.where(x > 0, curve.rise * x * x, below) + curve.beta * x


def gamma(n: int) -> float:
    """The largest relative error of n operations one after the other; of many, what is never seen in practice."""
    return min(n, 8 * n**0.5) * UNIT * 1.001


@dataclass(frozen=True)
class Interval:
    """A result's exact `value`, and the `radius` around it within which every computation in float32 lies."""

    value: Floats
    radius: Floats

    @classmethod
    def of(cls, numbers: Numbers) -> "Interval":
        """What is given, and therefore exact."""
        value = np.asarray(numbers, np.float64)
        return cls(value, np.zeros_like(value))

    def matmul(self, weights: Numbers, bias: Numbers | None = None) -> "Interval":
        """self [..., n] @ weights [n_out, n].T + bias [n_out]"""
        w = np.asarray(weights, np.float64)
        shift = np.zeros(len(w)) if bias is None else np.asarray(bias, np.float64)
        size = (np.abs(self.value) + self.radius) @ np.abs(w).T + np.abs(shift)
        return Interval(self.value @ w.T + shift, self.radius @ np.abs(w).T + gamma(w.shape[1] + 1) * size)

    def __mul__(self, other: "Interval") -> "Interval":
        value = self.value * other.value
        a, b = np.abs(self.value) + self.radius, np.abs(other.value) + other.radius
        return Interval(value, a * b * (1 + UNIT) - np.abs(value))

    def masked(self, mask: Numbers) -> "Interval":
        """0 exactly where the mask is."""
        kept = np.asarray(mask, bool)
        return Interval(self.value * kept, self.radius * kept)

    def activated(self, activation: Activation) -> "Interval":
        """But for squares, none is steeper than 1.13. Its own error follows its argument: 1 + erf(x) cancels."""
        x = self.value
        if activation is Activation.XIELU:
            size = np.abs(x) + self.radius
            steep = 2 * CURVE.rise * size + CURVE.fall + CURVE.beta
            own = gamma(_FUNCTION) * (CURVE.rise * size * size + CURVE.fall * (1 + size) + CURVE.beta * size)
            return Interval(bent(x, CURVE), steep * self.radius + own)
        if activation is Activation.FATRELU:
            above = x - THRESHOLD.threshold
            jump = np.where(np.abs(above) <= self.radius, np.abs(x), 0)
            return Interval(np.where(above > 0, x, 0), jump + np.where(above > -self.radius, self.radius, 0))
        if activation.has_exact_zeros:
            open_ = Interval(np.maximum(x, 0), np.where(x + self.radius > 0, self.radius, 0))
            return open_ if activation is Activation.RELU else open_ * open_
        shares = {
            Activation.SILU: lambda: 1 / (1 + np.exp(-x)),
            Activation.GELU: lambda: (1 + np.vectorize(erf)(x / 2**0.5)) / 2,
            Activation.GELU_TANH: lambda: (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
        }
        return Interval(x * shares[activation](), 1.13 * self.radius + gamma(_FUNCTION) * np.abs(x))

    def __getitem__(self, at: int) -> "Interval":
        return Interval(self.value[at], self.radius[at])

    @property
    def is_positive(self) -> npt.NDArray[np.bool_]:
        """Elementwise, where that does not depend on rounding; AssertionError where it does."""
        assert (np.abs(self.value) > self.radius).all(), "the test's numbers are too near to 0"
        return self.value > 0

    def check(self, found: Numbers) -> None:
        """AssertionError where `found` lies outside."""
        given = np.asarray(found, np.float64)
        assert given.shape == self.value.shape
        off = np.abs(given - self.value)
        wrong = ~(off <= self.radius)  # a NaN too
        if wrong.any():
            at = np.unravel_index(np.argmax(np.where(wrong, off / np.maximum(self.radius, 1e-300), 0)), off.shape)
            raise AssertionError(
                f"{wrong.sum()} of {wrong.size} differ; at {tuple(map(int, at))} {given[at]} instead of "
                f"{self.value[at]} +- {self.radius[at]:.3g}"
            )


def sparse_ffn(
    x: Numbers,
    active: Numbers,
    gate: Numbers | None,
    up: Numbers,
    down_t: Numbers,
    *,
    activation: Activation = Activation.RELU,
    relu_on_up: bool = False,
    gate_bias: Numbers | None = None,
    up_bias: Numbers | None = None,
) -> Interval:
    """As kernels.reference.sparse_ffn: x [T, n_embd], active [T, n_ff], matrices [n_ff, n_embd] -> [T, n_embd]"""
    ups = Interval.of(x).matmul(up, up_bias)
    if gate is None:
        values = ups.activated(activation)
    else:
        second = ups.activated(Activation.RELU) if relu_on_up else ups
        values = Interval.of(x).matmul(gate, gate_bias).activated(activation) * second
    return values.masked(active).matmul(np.asarray(down_t).T)


def attention(
    q: Numbers,
    k: Numbers,
    v: Numbers,
    *,
    scale: float | None = None,
    window: int | None = None,
    cap: float = 0.0,
    alibi: float = 0.0,
    temperature: Temperature | None = None,
    sinks: Numbers | None = None,
    chunk: int | None = None,
) -> Interval:
    """As kernels.reference.attention: q [T, H, D]; k, v [S, H_kv, D] -> [T, H * D]. Without a scale 1 / sqrt(D)."""
    queries, keys, values = (np.asarray(x, np.float64).swapaxes(0, 1) for x in (q, k, v))  # [H, T or S, D]
    n_head, n_token, dim = queries.shape
    own = np.arange(keys.shape[1] - n_token, keys.shape[1])
    if temperature is not None:
        grown = np.log(1 + (own + temperature.ahead) // temperature.length)
        queries = queries * (1 + temperature.gain * grown)[:, None]
    keys, values = (x.repeat(n_head // len(x), axis=0) for x in (keys, values))
    seen = np.tri(n_token, keys.shape[1], keys.shape[1] - n_token, dtype=bool)
    if window is not None:
        seen &= ~np.tri(n_token, keys.shape[1], keys.shape[1] - n_token - window, dtype=bool)
    if chunk is not None:
        seen &= np.arange(keys.shape[1]) >= (own // chunk * chunk)[:, None]
    scale = dim**-0.5 if scale is None else scale
    scores = queries @ keys.swapaxes(1, 2) * scale
    size = np.abs(queries) @ np.abs(keys).swapaxes(1, 2) * scale
    if cap:
        scores = cap * np.tanh(scores / cap)
    if alibi:
        scores = scores - _slopes(n_head, alibi)[:, None, None] * (own[:, None] - np.arange(keys.shape[1]))
    # What an exponent is off is what its exponential is off in relation; the largest score is taken from all.
    off = np.where(seen, gamma(dim + 4) * size + 4 * UNIT * np.abs(scores) + _TANH * cap, 0).max(axis=2, keepdims=True)
    scores = np.where(seen, scores, -np.inf)
    highest, added = scores.max(axis=2, keepdims=True), 0.0
    if sinks is not None:
        sink = np.asarray(sinks, np.float64)[:, None, None]
        highest = np.maximum(highest, sink)
        added = np.exp(sink - highest)
    weights = np.exp(scores - highest)
    weights /= weights.sum(axis=2, keepdims=True) + added
    radius = (4 * off + gamma(2 * keys.shape[1] + _FUNCTION)) * (weights @ np.abs(values))
    out, radius = ((x.swapaxes(0, 1).reshape(n_token, -1)) for x in (weights @ values, radius))
    return Interval(out, radius)


def _slopes(n_head: int, most: float) -> Floats:
    """As the paper has them: of the largest power of two, then every other one of twice as many heads."""
    power = 1
    while 2 * power <= n_head:
        power *= 2
    first = [2.0 ** (-most * (i + 1) / power) for i in range(power)]
    other = [2.0 ** (-most * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return np.array((first + other)[:n_head])


def check_logits(found: Numbers, wanted: Numbers) -> None:
    """Logits of one model by two computations in float32, or what passes its layers. AssertionError where they differ.

    What every layer adds to what is off already has no bound that is not far too wide: this is the size of logits times
    ten times what is seen on any CPU. A neuron too many or too few is off by more.
    """
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS * np.abs(np.asarray(wanted)).max())
