"""What layers do that keep a state of each sequence, for a few tokens, in Triton. Which sequence it is, and whether it
begins, is read from the device's memory; a program goes through the tokens one by one. More tokens are left to torch,
but for the delta rule.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.device import reference_recurrent
from powerinfer_cli.kernels.device.triton_delta_chunks import MOST_ROWS, delta_rule_in_chunks
from powerinfer_cli.kernels.device.triton_rows import launch
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.model.blocks import Convolution, DeltaNet, Mamba2
from powerinfer_cli.model.blocks.recurrent import LANES

__all__ = ["convolve", "delta_rule", "scan"]

_CHANNELS = 128  # of a program


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
    """after * convolution(before * x), or SiLU of the convolution. See the twin."""
    if len(x) > FEW:
        whose = states, sequence, n_past
        return reference_recurrent.convolve(x, *whose, convolution, before=before, after=after, activate=activate)
    out, n = torch.empty_like(x), convolution.channels
    launch(
        _convolve,
        (triton.cdiv(n, _CHANNELS),),
        *(x, before, after, convolution.weight, convolution.bias, states, sequence, n_past, out),
        *(len(x), n, states.stride(0), convolution.stride, convolution.length, activate, _CHANNELS),
    )
    return out


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
    """What heads make of queries, keys and values; of more than a few tokens in chunks. See the twin."""
    if len(mixed) > FEW and a.key_dim > MOST_ROWS:
        return reference_recurrent.delta_rule(a, mixed, alpha, beta, states, sequence, n_past, out)
    out = torch.empty(len(mixed), a.n_values * a.value_dim, device=mixed.device) if out is None else out
    if len(mixed) > FEW:
        delta_rule_in_chunks(a, mixed, alpha, beta, states, sequence, n_past, out)
        return out
    launch(
        _delta_rule,
        (a.n_values, a.n_blocks),
        *(mixed, alpha, beta, a.decay, a.shift, states, sequence, n_past, out, len(mixed)),
        *(states.stride(0), a.convolution.state_size, a.key_dim**-0.5),
        *(a.n_keys, a.n_values, a.tiled, a.key_dim, a.value_dim),
        *(triton.next_power_of_2(a.key_dim), LANES),
    )
    return out


def scan(
    a: Mamba2[Any, Tensor], mixed: Tensor, steps: Tensor, states: Tensor, sequence: Tensor, n_past: Tensor
) -> Tensor:
    """What heads make, token by token. See the twin."""
    if len(mixed) > FEW:
        return reference_recurrent.scan(a, mixed, steps, states, sequence, n_past)
    out = torch.empty(len(mixed), a.inner, device=mixed.device)
    launch(
        _scan,
        (a.n_heads, a.n_blocks),
        *(mixed, steps, a.decay, a.shift, a.skip, states, sequence, n_past, out, len(mixed)),
        *(states.stride(0), a.convolution.state_size, a.n_heads, a.n_groups, a.value_dim, a.state_dim),
        *(triton.next_power_of_2(a.state_dim), LANES),
    )
    return out


@triton.jit
def _convolve(
    x,
    before,
    after,
    weight,
    bias,
    states,
    sequence,
    n_past,
    out,
    n_tokens,
    n,
    state_size,
    stride,
    LENGTH: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program some channels. Each of its threads reads and writes its own, in order."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, n_kept = c < n, tl.where(tl.load(n_past) > 0, n, 0)
    kept = states + tl.load(sequence) * state_size + c
    for t in range(n_tokens):
        total = tl.zeros([BLOCK], tl.float32)
        if bias is not None:
            total = tl.load(bias + c, mask=inside, other=0)
        for j in range(LENGTH):
            seen = _seen(x, before, kept, t + 1 - LENGTH + j, c, n, n_kept, stride, LENGTH)
            total += seen * tl.load(weight + c * LENGTH + j, mask=inside, other=0)
        if SILU:
            total = total / (1 + tl.exp(-total))
        if after is not None:
            total *= tl.load(after + t * n + c, mask=inside, other=0)
        tl.store(out + t * n + c, total, mask=inside)
    for row in range(LENGTH - 1):
        last = _seen(x, before, kept, n_tokens + 1 - LENGTH + row, c, n, n_kept, stride, LENGTH)
        tl.store(kept + row * stride, last, mask=inside)


@triton.jit
def _seen(x, before, kept, place, c, n, n_kept, stride, LENGTH: tl.constexpr):
    """What is convolved, at a place among the tokens; those of before them have places below 0."""
    place += tl.zeros_like(c)  # for the interpreter, whose masks are of whole blocks
    here = (c < n) & (place >= 0)
    value = tl.load(x + place * n + c, mask=here, other=0)
    if before is not None:
        value *= tl.load(before + place * n + c, mask=here, other=0)
    return value + tl.load(kept + (place + LENGTH - 1) * stride, mask=(c < n_kept) & (place < 0), other=0)


@triton.jit
def _unit(x):
    return x * tl.rsqrt(tl.sum(x * x) + 1e-6)


@triton.jit
def _delta_rule(
    mixed,
    alpha,
    beta,
    decay,
    shift,
    states,
    sequence,
    n_past,
    out,
    n_tokens,
    state_size,
    first_state,
    scale,
    N_KEYS: tl.constexpr,
    N_VALUES: tl.constexpr,
    TILED: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program some columns of a head's state, which lie together and stay in its registers."""
    head, block, i = tl.program_id(0), tl.program_id(1), tl.arange(0, WIDTH)
    lane = tl.arange(0, COLUMNS)
    j = block * COLUMNS + lane
    key_head = head % N_KEYS if TILED else head // (N_VALUES // N_KEYS)
    key, value = i < KEY_DIM, j < VALUE_DIM
    place = (head * tl.num_programs(1) + block) * KEY_DIM * COLUMNS
    at = states + tl.load(sequence) * state_size + first_state + place + i[:, None] * COLUMNS + lane[None, :]
    n_kept = tl.where(tl.load(n_past) > 0, KEY_DIM, 0)
    state = tl.load(at, mask=(i < n_kept)[:, None] & value[None, :], other=0)
    fall, step = tl.load(decay + head), tl.load(shift + head)
    for t in range(n_tokens):
        q = mixed + t * (2 * N_KEYS * KEY_DIM + N_VALUES * VALUE_DIM) + key_head * KEY_DIM
        k = _unit(tl.load(q + N_KEYS * KEY_DIM + i, mask=key, other=0))
        v = mixed + t * (2 * N_KEYS * KEY_DIM + N_VALUES * VALUE_DIM) + 2 * N_KEYS * KEY_DIM + head * VALUE_DIM
        x = tl.load(alpha + t * N_VALUES + head) + step
        softplus = tl.maximum(x, 0) + tl.log(1 + tl.exp(-tl.abs(x)))
        weight = 1 / (1 + tl.exp(-tl.load(beta + t * N_VALUES + head)))
        state *= tl.exp(fall * softplus)
        wrong = tl.load(v + j, mask=value, other=0) - tl.sum(state * k[:, None], axis=0)
        state += k[:, None] * (weight * wrong)[None, :]
        asked = scale * _unit(tl.load(q + i, mask=key, other=0))
        tl.store(out + (t * N_VALUES + head) * VALUE_DIM + j, tl.sum(state * asked[:, None], axis=0), mask=value)
    tl.store(at, state, mask=key[:, None] & (lane >= 0)[None, :])


@triton.jit
def _scan(
    mixed,
    steps,
    decay,
    shift,
    skip,
    states,
    sequence,
    n_past,
    out,
    n_tokens,
    state_size,
    first_state,
    N_HEADS: tl.constexpr,
    N_GROUPS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    STATE_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program some columns of a head's state, which lie together."""
    head, block, i = tl.program_id(0), tl.program_id(1), tl.arange(0, WIDTH)
    lane = tl.arange(0, COLUMNS)
    j, group = block * COLUMNS + lane, head // (N_HEADS // N_GROUPS)
    row, value = i < STATE_DIM, j < VALUE_DIM
    place = (head * tl.num_programs(1) + block) * STATE_DIM * COLUMNS
    at = states + tl.load(sequence) * state_size + first_state + place + i[:, None] * COLUMNS + lane[None, :]
    n_kept = tl.where(tl.load(n_past) > 0, STATE_DIM, 0)
    state = tl.load(at, mask=(i < n_kept)[:, None] & value[None, :], other=0)
    fall, moved, passed = tl.load(decay + head), tl.load(shift + head), tl.load(skip + head)
    for t in range(n_tokens):
        v = mixed + t * (N_HEADS * VALUE_DIM + 2 * N_GROUPS * STATE_DIM)
        b = v + N_HEADS * VALUE_DIM + group * STATE_DIM
        x = tl.load(steps + t * N_HEADS + head) + moved
        step = tl.maximum(x, 0) + tl.log(1 + tl.exp(-tl.abs(x)))
        given = tl.load(v + head * VALUE_DIM + j, mask=value, other=0)
        written = tl.load(b + i, mask=row, other=0)
        state = state * tl.exp(fall * step) + written[:, None] * (step * given)[None, :]
        read = tl.load(b + N_GROUPS * STATE_DIM + i, mask=row, other=0)
        made = tl.sum(state * read[:, None], axis=0) + passed * given
        tl.store(out + (t * N_HEADS + head) * VALUE_DIM + j, made, mask=value)
    tl.store(at, state, mask=row[:, None] & (lane >= 0)[None, :])
