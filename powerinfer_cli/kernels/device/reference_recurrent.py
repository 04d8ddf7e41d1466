"""The plain twins of what layers do that keep a state of each sequence. T tokens of one sequence.

states float32 [sequences, numbers of a state]: those of all sequences, laid out as the block says. Which sequence it
is, and how many tokens it had, is read from the device's memory: int64 [1] each. A sequence that had none begins with
zeros, whatever is there. Tokens are taken one by one, so that it does not matter where a text is cut; of more than FEW
the delta rule and the scan take chunks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.kernels import reference_recurrent
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.reference_recurrent import blocks_of_columns, columns_of_blocks
from powerinfer_cli.model.blocks import Convolution, DeltaNet, Mamba2, Norm
from powerinfer_cli.model.blocks.recurrent import LANES

__all__ = ["convolve", "delta_rule", "gate_groups", "scan"]


def convolve(
    x: Tensor,
    states: Tensor,
    sequence: Tensor,
    n_past: Tensor,
    convolution: Convolution[Tensor],
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    activate: bool = False,
) -> Tensor:
    """after * convolution(before * x), or SiLU of the convolution where it is to `activate`. All [T, channels]."""
    n, length, stride = convolution.channels, convolution.length, convolution.stride
    kept = states[:, : convolution.state_size].unflatten(1, (length - 1, stride))[:, :, :n]
    own = torch.where(n_past > 0, kept.index_select(0, sequence)[0], 0)
    whole = torch.cat((own, x if before is None else before * x))
    weight = convolution.weight.view(n, length)
    made = torch.zeros_like(x) if convolution.bias is None else convolution.bias.expand_as(x).clone()
    for j in range(length):
        made.addcmul_(whole[j : j + len(x)], weight[:, j])
    kept.index_copy_(0, sequence, whole[len(x) :].unsqueeze(0))
    if activate:
        made = F.silu(made)
    return made if after is None else made.mul_(after)


def delta_rule(
    a: DeltaNet[Any, Tensor],
    mixed: Tensor,
    alpha: Tensor,
    beta: Tensor,
    states: Tensor,
    sequence: Tensor,
    n_past: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """What heads make of mixed [T, channels], which is queries, keys and values, with alpha and beta [T, n_values] as
    they come of their matrices. -> [T, n_values * value_dim]
    """
    log_g, weight = a.decay * F.softplus(alpha + a.shift), beta.sigmoid()
    n_qk, shape = a.n_keys * a.key_dim, (len(mixed), a.n_keys, a.key_dim)
    q, k = (_unit(part.view(shape)) for part in mixed[:, : 2 * n_qk].split(n_qk, 1))
    q, k = (_of_values(a, one) for one in (q * a.key_dim**-0.5, k))
    v = mixed[:, 2 * n_qk :].unflatten(1, (a.n_values, a.value_dim))
    blocks = a.n_values, a.n_blocks, a.key_dim, LANES
    kept = states[:, a.convolution.state_size :].unflatten(1, blocks)
    state = columns_of_blocks(torch.where(n_past > 0, kept.index_select(0, sequence)[0], 0), a.value_dim)
    if len(mixed) <= FEW:
        made = reference_recurrent.delta_rule(q, k, v, log_g.exp(), weight, state)
    else:
        made = reference_recurrent.delta_rule_in_chunks(q, k, v, log_g, weight, state)
    kept.index_copy_(0, sequence, blocks_of_columns(state, LANES).unsqueeze(0))
    made = made.flatten(1)
    return made if out is None else out.copy_(made)


def scan(
    a: Mamba2[Any, Tensor], mixed: Tensor, steps: Tensor, states: Tensor, sequence: Tensor, n_past: Tensor
) -> Tensor:
    """What heads make of mixed [T, channels], with steps [T, n_heads] as they come of their matrix. -> [T, inner]"""
    d, n = F.softplus(steps + a.shift), a.n_groups * a.state_dim
    v = mixed[:, : a.inner].unflatten(1, (a.n_heads, a.value_dim))
    b, c = (one.unflatten(1, (a.n_groups, a.state_dim)) for one in mixed[:, a.inner :].split(n, 1))
    b, c = (one.repeat_interleave(a.n_heads // a.n_groups, 1) for one in (b, c))  # [T, H, N]
    blocks = a.n_heads, a.n_blocks, a.state_dim, LANES
    kept = states[:, a.convolution.state_size :].unflatten(1, blocks)
    state = columns_of_blocks(torch.where(n_past > 0, kept.index_select(0, sequence)[0], 0), a.value_dim)
    run = reference_recurrent.scan if len(mixed) <= FEW else reference_recurrent.scan_in_chunks
    made: Tensor = run(d.unsqueeze(2) * v, b, c, a.decay * d, state) + a.skip[:, None] * v
    kept.index_copy_(0, sequence, blocks_of_columns(state, LANES).unsqueeze(0))
    return made.flatten(1)


def gate_groups(x: Tensor, gate: Tensor, n_groups: int, norm: Norm[Tensor] | None) -> Tensor:
    """x * SiLU(gate), then each group's root mean square norm, where there is one. x, gate [T, n]; weight [n]."""
    made = x * F.silu(gate)
    if norm is None:
        return made
    parts = made.view(len(made), n_groups, -1)
    parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + norm.eps)
    return parts.flatten(1) * norm.weight


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _of_values(a: DeltaNet[Any, Tensor], x: Tensor) -> Tensor:
    """Heads of keys [T, n_keys, key_dim], one for each of values."""
    times = a.n_values // a.n_keys
    return x.repeat(1, times, 1) if a.tiled else x.repeat_interleave(times, 1)
