"""Where float32 may put a result, whatever the order of its sums: tolerances that follow the size of what is summed.

A sum of n products is off by at most n * UNIT of its terms' magnitudes in all (Higham, Accuracy and Stability of
Numerical Algorithms, 3.1), and by what its operands were off already. A term that is wrong is off by far more.
"""

from dataclasses import dataclass
from math import erf

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli.model import Activation

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating] | torch.Tensor

UNIT = 2.0**-24  # the largest relative error of one operation
_FUNCTION = 8  # operations that an exponential or an error function counts as


def gamma(n: int) -> float:
    """The largest relative error of n operations one after the other."""
    return n * UNIT / (1 - n * UNIT)


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
        """But for the square, none is steeper than 1.13. Its own error follows its argument: 1 + erf(x) cancels."""
        x = self.value
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
