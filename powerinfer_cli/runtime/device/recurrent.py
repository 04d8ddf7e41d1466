"""Mixers that keep a state of each sequence, on a device, up to what their output matrix makes of it. T tokens.

Where a state lies is told in the device's memory, so that recordings serve all sequences.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import Ops, PlanarRows
from powerinfer_cli.kernels.reference_recurrent import CHUNK
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import DeltaNet, Mamba2, Recurrent, ShortConvolution
from powerinfer_cli.runtime.device.places import Places

__all__ = ["mix", "mixing_bytes"]

DeviceRecurrent: TypeAlias = Recurrent[PlanarRows, Tensor]
# Given what is done with some tokens, by their places, and with their sequence's number and length: of all tokens.
Recur: TypeAlias = Callable[[Callable[[slice, Tensor, Tensor], Tensor]], Tensor]


def mix(ops: Ops, a: DeviceRecurrent, x: Tensor, states: Tensor, places: Places, out: Tensor) -> None:
    """x [T, n_embd] -> out [T, n_embd]; states [sequences, numbers of a state], which go on."""

    def recur(step: Callable[[slice, Tensor, Tensor], Tensor]) -> Tensor:
        parts = [step(slice(s.begin, s.end), s.sequence, s.n_past) for s in places.cached(None).segments[: len(x)]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    match a:
        case ShortConvolution():
            made = _short_convolution(ops, a, x, states, recur)
        case DeltaNet():
            made = _delta_net(ops, a, x, states, recur)
        case Mamba2():
            made = _mamba2(ops, a, x, states, recur)
        case _:
            assert_never(a)
    ops.linear(a.output, made, out)


def _short_convolution(
    ops: Ops, a: ShortConvolution[PlanarRows, Tensor], x: Tensor, states: Tensor, recur: Recur
) -> Tensor:
    before, after, value = (ops.linear(one, x) for one in (a.before, a.after, a.value))

    def step(part: slice, sequence: Tensor, n_past: Tensor) -> Tensor:
        whose = states, sequence, n_past
        return ops.convolve(value[part], *whose, a.convolution, before=before[part], after=after[part])

    return recur(step)


def _delta_net(ops: Ops, a: DeltaNet[PlanarRows, Tensor], x: Tensor, states: Tensor, recur: Recur) -> Tensor:
    mixed, gate, alpha, beta = (ops.linear(one, x) for one in (a.mixed, a.gate, a.alpha, a.beta))

    def step(part: slice, sequence: Tensor, n_past: Tensor) -> Tensor:
        whose = states, sequence, n_past
        seen = ops.convolve(mixed[part], *whose, a.convolution, activate=True)
        return ops.delta_rule(a, seen, alpha[part], beta[part], *whose)

    made = recur(step)
    heads = made.view(-1, a.value_dim)
    ops.norm(a.norm, heads, out=heads)
    return ops.activated(gate, made, Activation.SILU, out=made)


def _mamba2(ops: Ops, a: Mamba2[PlanarRows, Tensor], x: Tensor, states: Tensor, recur: Recur) -> Tensor:
    mixed, gate, steps = (ops.linear(one, x) for one in (a.mixed, a.gate, a.steps))

    def step(part: slice, sequence: Tensor, n_past: Tensor) -> Tensor:
        whose = states, sequence, n_past
        seen = ops.convolve(mixed[part], *whose, a.convolution, activate=True)
        return ops.scan(a, seen, steps[part], *whose)

    return ops.gate_groups(recur(step), gate, a.n_groups, a.norm)


def mixing_bytes(a: Recurrent[Any, Any], n_tokens: int) -> int:
    """What comes and goes while so many tokens are mixed."""
    match a:
        case ShortConvolution():
            return 4 * n_tokens * 7 * a.convolution.channels
        case DeltaNet():
            keys, inner = a.n_values * a.key_dim, a.n_values * a.value_dim
            token = 5 * a.convolution.channels + 10 * keys + 10 * inner + 6 * a.n_values * CHUNK
            return 4 * ((n_tokens + CHUNK) * token + 3 * a.state_size)
        case Mamba2():
            chunk = CHUNK * (3 * a.n_heads * CHUNK + 3 * a.inner + 3 * a.n_heads * a.state_dim)
            return 4 * (n_tokens * (5 * a.convolution.channels + 6 * a.inner) + chunk + 3 * a.state_size)
    assert_never(a)
