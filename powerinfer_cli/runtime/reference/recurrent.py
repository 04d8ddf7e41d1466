"""Recurrent mixers over matrices: they keep a state of each sequence. T tokens of a batch."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference_recurrent import (
    blocks_of_columns,
    columns_of_blocks,
    convolve,
    delta_rule,
    delta_rule_in_chunks,
    scan,
    scan_in_chunks,
)
from powerinfer_cli.model.blocks import Convolution, DeltaNet, Mamba2, Norm, ShortConvolution
from powerinfer_cli.model.blocks.recurrent import LANES
from powerinfer_cli.runtime.reference.products import multiply, normed

__all__ = ["Recur", "delta_net", "mamba2", "short_convolution"]

# Given what is done with a segment's tokens and its sequence's state, a flat vector that it writes to: of all segments.
Recur: TypeAlias = Callable[[Callable[[slice, Tensor], Tensor]], Tensor]


def short_convolution(a: ShortConvolution[Matrix, Tensor], x: Tensor, recur: Recur) -> Tensor:
    """x [T, n_embd] -> [T, n_embd]"""
    before, after, value = (multiply(one, x) for one in (a.before, a.after, a.value))
    seen = before * value
    return multiply(a.output, after * recur(lambda part, state: convolved(a.convolution, seen[part], state)))


def delta_net(a: DeltaNet[Matrix, Tensor], x: Tensor, recur: Recur) -> Tensor:
    """x [T, n_embd] -> [T, n_embd]"""
    mixed, gate = multiply(a.mixed, x), multiply(a.gate, x)
    log_g = a.decay * F.softplus(multiply(a.alpha, x) + a.shift)
    beta = multiply(a.beta, x).sigmoid()

    def step(part: slice, state: Tensor) -> Tensor:
        seen = F.silu(convolved(a.convolution, mixed[part], state))
        n_qk = a.n_keys * a.key_dim
        q, k, v = seen[:, :n_qk], seen[:, n_qk : 2 * n_qk], seen[:, 2 * n_qk :]
        q, k = (_of_values(a, _of_length_1(one.view(len(one), a.n_keys, -1))) for one in (q, k))
        blocks = state[a.convolution.state_size :].view(a.n_values, a.n_blocks, a.key_dim, LANES)
        kept = columns_of_blocks(blocks, a.value_dim)
        rest = q * a.key_dim**-0.5, k, v.reshape(len(v), a.n_values, -1)
        if len(v) == 1:
            made = delta_rule(*rest, log_g[part].exp(), beta[part], kept)
        else:
            made = delta_rule_in_chunks(*rest, log_g[part], beta[part], kept)
        blocks.copy_(blocks_of_columns(kept, LANES))
        return made

    made = normed(a.norm, recur(step)).flatten(1)
    return multiply(a.output, made * F.silu(gate))


def _of_length_1(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _of_values(a: DeltaNet[Matrix, Tensor], x: Tensor) -> Tensor:
    """Heads of keys [T, n_keys, key_dim], one for each of values."""
    times = a.n_values // a.n_keys
    return x.repeat(1, times, 1) if a.tiled else x.repeat_interleave(times, 1)


def mamba2(a: Mamba2[Matrix, Tensor], x: Tensor, recur: Recur) -> Tensor:
    """x [T, n_embd] -> [T, n_embd]"""
    mixed, gate = multiply(a.mixed, x), multiply(a.gate, x)
    steps = F.softplus(multiply(a.steps, x) + a.shift)  # [T, H]

    def step(part: slice, state: Tensor) -> Tensor:
        seen, d = F.silu(convolved(a.convolution, mixed[part], state)), steps[part]
        n = a.n_groups * a.state_dim
        v, b, c = seen[:, : a.inner], seen[:, a.inner : a.inner + n], seen[:, a.inner + n :]
        v = v.view(len(v), a.n_heads, -1)
        b, c = (one.view(len(v), a.n_groups, -1).repeat_interleave(a.n_heads // a.n_groups, 1) for one in (b, c))
        blocks = state[a.convolution.state_size :].view(a.n_heads, a.n_blocks, a.state_dim, LANES)
        kept = columns_of_blocks(blocks, a.value_dim)
        run = scan if len(v) == 1 else scan_in_chunks
        made = run(d.unsqueeze(2) * v, b, c, a.decay * d, kept) + a.skip[:, None] * v
        blocks.copy_(blocks_of_columns(kept, LANES))
        return made.flatten(1)

    made = recur(step) * F.silu(gate)
    return multiply(a.output, made if a.norm is None else _of_groups(a.norm, made, a.n_groups))


def _of_groups(norm: Norm[Tensor], x: Tensor, n_groups: int) -> Tensor:
    weight = norm.weight.view(n_groups, -1)
    return normed(Norm(norm.kind, norm.eps, weight, None), x.view(len(x), n_groups, -1)).flatten(1)


def convolved(convolution: Convolution[Tensor], x: Tensor, state: Tensor) -> Tensor:
    """x [T, channels] of one sequence; state: begins with what is kept of the convolution's inputs."""
    kept = state[: convolution.state_size].view(convolution.length - 1, convolution.stride)[:, : convolution.channels]
    weight = convolution.weight.view(convolution.channels, convolution.length)
    y, last = convolve(x, kept, weight, convolution.bias)
    kept.copy_(last.clone())
    return y
