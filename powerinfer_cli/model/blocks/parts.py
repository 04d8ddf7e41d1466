"""What blocks are made of: products, norms, and what numbers pass through."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar, assert_never

import numpy as np

__all__ = ["XIELU", "Activation", "Curve", "FatReLU", "Linear", "M", "N", "Norm", "NormKind", "Norms", "V", "W"]

M = TypeVar("M")
V = TypeVar("V")
N = TypeVar("N")
W = TypeVar("W")


class Activation(StrEnum):
    """What a neuron's gate, or without one its up, passes through. GELU by the error function, or by tanh. Clamped
    swish: g sigmoid(1.702 g) of g = min(gate, 7), and up becomes 1 + itself, within -7 and 7, first. xIELU and FATReLU
    have numbers, a `Curve`.
    """

    RELU = "relu"
    RELU_SQUARED = "relu_squared"
    FATRELU = "fatrelu"
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    XIELU = "xielu"
    CLAMPED_SWISH = "clamped_swish"

    @property
    def has_exact_zeros(self) -> bool:
        """0 for every negative number: such neurons need not be computed, whatever else they would be."""
        match self:
            case Activation.RELU | Activation.RELU_SQUARED | Activation.FATRELU:
                return True
            case Activation.SILU | Activation.GELU | Activation.GELU_TANH | Activation.XIELU | Activation.CLAMPED_SWISH:
                return False
        assert_never(self)

    @property
    def bends_up(self) -> bool:
        """What it gates passes through something as well."""
        return self is Activation.CLAMPED_SWISH


@dataclass(frozen=True)
class XIELU:
    """Above 0: rise * x * x + beta * x; else fall * (e**min(x, eps) - 1 - x) + beta * x (Huang and Schlag 2024)."""

    rise: float
    fall: float
    beta: float
    eps: float

    @classmethod
    def trained(cls, alpha_n: float, alpha_p: float, beta: float, eps: float) -> "XIELU":
        """By the numbers that files hold, of which alphas are before softplus, log(1 + e**alpha)."""
        rise, fall = (float(np.logaddexp(0.0, alpha)) for alpha in (alpha_p, alpha_n))
        return cls(rise, beta + fall, beta, eps)


@dataclass(frozen=True)
class FatReLU:
    """x above a threshold that is not negative, else 0 (Kurtz et al. 2020; ProSparse)."""

    threshold: float


Curve: TypeAlias = XIELU | FatReLU
"""An activation's numbers."""


class NormKind(StrEnum):
    RMS = "rms"
    LAYER = "layer"

    @property
    def is_centred(self) -> bool:
        """The mean is taken out first."""
        match self:
            case NormKind.RMS:
                return False
            case NormKind.LAYER:
                return True
        assert_never(self)


@dataclass(frozen=True)
class Linear(Generic[M, V]):
    """x @ weight.T + bias: weight [rows, columns], bias [rows]."""

    weight: M
    bias: V | None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Linear[N, W]":
        return Linear(matrix(self.weight), None if self.bias is None else vector(self.bias))


@dataclass(frozen=True)
class Norm(Generic[V]):
    """By the root mean square, or by mean and variance; weight [n], bias [n]."""

    kind: NormKind
    eps: float
    weight: V
    bias: V | None

    def map(self, vector: Callable[[V], W]) -> "Norm[W]":
        bias = None if self.bias is None else vector(self.bias)
        return Norm(self.kind, self.eps, vector(self.weight), bias)


@dataclass(frozen=True)
class Norms(Generic[V]):
    """Of a block in a residual: of what it reads, of what it makes, or both. What reads is normed where `before` is."""

    before: Norm[V] | None
    after: Norm[V] | None = None

    def map(self, vector: Callable[[V], W]) -> "Norms[W]":
        before = None if self.before is None else self.before.map(vector)
        return Norms(before, None if self.after is None else self.after.map(vector))
