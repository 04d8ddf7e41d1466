"""Recurrent mixers over matrices: they keep a state of each sequence. T tokens of a batch."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference_recurrent import convolve
from powerinfer_cli.model.blocks import Convolution, ShortConvolution
from powerinfer_cli.runtime.reference.products import multiply

__all__ = ["Recur", "short_convolution"]

# Given what is done with a segment's tokens and its sequence's state, a flat vector that it writes to: of all segments.
Recur: TypeAlias = Callable[[Callable[[slice, Tensor], Tensor]], Tensor]


def short_convolution(a: ShortConvolution[Matrix, Tensor], x: Tensor, recur: Recur) -> Tensor:
    """x [T, n_embd] -> [T, n_embd]"""
    before, after, value = (multiply(one, x) for one in (a.before, a.after, a.value))
    seen = before * value
    return multiply(a.output, after * recur(lambda part, state: convolved(a.convolution, seen[part], state)))


def convolved(convolution: Convolution[Tensor], x: Tensor, state: Tensor) -> Tensor:
    """x [T, channels] of one sequence; state: begins with what is kept of the convolution's inputs."""
    kept = state[: convolution.state_size].view(convolution.length - 1, convolution.stride)[:, : convolution.channels]
    weight = convolution.weight.view(convolution.channels, convolution.length)
    y, last = convolve(x, kept, weight, convolution.bias)
    kept.copy_(last.clone())
    return y
