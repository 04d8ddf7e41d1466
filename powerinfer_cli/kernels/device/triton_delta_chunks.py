"""The delta rule of many tokens in Triton: SIZE at a time, in WY form (Yang et al. 2024), all in float32.

What of a chunk does not depend on the state is made for all chunks side by side: what its tokens score with each
other, and the inverse of the triangular system of their corrections, by substitution, which stays exact where keys
repeat. Then a program goes from chunk to chunk with some columns of a head's state. Decays between two tokens are sums
of what lies between them, never differences of large sums. Chunks begin where the tokens do, so that where a text is
cut changes results by rounding, as all else of a device does.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.device.triton_rows import launch
from powerinfer_cli.model.blocks import DeltaNet
from powerinfer_cli.model.blocks.recurrent import LANES

__all__ = ["MOST_ROWS", "delta_rule_in_chunks"]

MOST_ROWS = 128  # of a head's state; with 256 registers are spilled on every card
_SIZE = 32  # tokens of a chunk
_PART = 32  # rows of a state that meet a chunk at a time: operands of products in float32 are in registers


def delta_rule_in_chunks(
    a: DeltaNet[Any, Tensor],
    mixed: Tensor,
    alpha: Tensor,
    beta: Tensor,
    states: Tensor,
    sequence: Tensor,
    n_past: Tensor,
    out: Tensor,
) -> None:
    """As `reference_recurrent.delta_rule` has it, of heads of MOST_ROWS at most."""
    n_chunks = triton.cdiv(len(mixed), _SIZE)
    inverse, scores = torch.empty(2, n_chunks, a.n_values, _SIZE, _SIZE, device=mixed.device)
    gates = torch.empty(n_chunks, a.n_values, 4, _SIZE, device=mixed.device)
    heads = a.n_keys, a.n_values, a.tiled, a.key_dim, a.value_dim
    launch(
        _chunk,
        (n_chunks, a.n_values),
        *(mixed, alpha, beta, a.decay, a.shift, inverse, scores, gates, len(mixed), a.key_dim**-0.5),
        *(*heads, _SIZE, _PART),
    )
    launch(
        _over_chunks,
        (a.n_values, a.n_blocks),
        *(mixed, inverse, scores, gates, states, sequence, n_past, out, len(mixed)),
        *(states.stride(0), a.convolution.state_size),
        *(*heads, _SIZE, _PART, triton.cdiv(a.key_dim, _PART), LANES),
    )


@triton.jit
def _chunk(
    mixed,
    alpha,
    beta,
    decay,
    shift,
    inverse,
    scores,
    gates,
    n_tokens,
    scale,
    N_KEYS: tl.constexpr,
    N_VALUES: tl.constexpr,
    TILED: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    SIZE: tl.constexpr,
    PART: tl.constexpr,
):
    """A program a chunk of a head. inverse, scores [chunks, heads, SIZE, SIZE]; gates [chunks, heads, 4, SIZE]: what
    keys and queries meet of the state with, what keys are kept with, and what the state is kept with.
    """
    head, t, i = tl.program_id(1), tl.arange(0, SIZE), tl.arange(0, PART)
    token = tl.program_id(0) * SIZE + t
    there, row, column = token < n_tokens, t[:, None], t[None, :]
    key_head = head % N_KEYS if TILED else head // (N_VALUES // N_KEYS)
    at = mixed + token[:, None] * (2 * N_KEYS * KEY_DIM + N_VALUES * VALUE_DIM) + key_head * KEY_DIM + i[None, :]
    among = tl.zeros([SIZE, SIZE], tl.float32)
    asked = tl.zeros([SIZE, SIZE], tl.float32)
    of_k = tl.zeros([SIZE], tl.float32)
    of_q = tl.zeros([SIZE], tl.float32)
    for part in tl.range(0, KEY_DIM, PART, num_stages=1):
        inside = there[:, None] & (part + i < KEY_DIM)[None, :]
        q = tl.load(at + part, mask=inside, other=0)
        k = tl.load(at + part + N_KEYS * KEY_DIM, mask=inside, other=0)
        of_k += tl.sum(k * k, axis=1)
        of_q += tl.sum(q * q, axis=1)
        among = tl.dot(k, tl.trans(k), among, input_precision="ieee")
        asked = tl.dot(q, tl.trans(k), asked, input_precision="ieee")
    of_k, of_q = tl.rsqrt(of_k + 1e-6), scale * tl.rsqrt(of_q + 1e-6)
    x = tl.load(alpha + token * N_VALUES + head, mask=there, other=0) + tl.load(shift + head)
    softplus = tl.maximum(x, 0) + tl.log(1 + tl.exp(-tl.abs(x)))
    log_g = tl.where(there, tl.load(decay + head) * softplus, 0.0)
    weight = 1 / (1 + tl.exp(-tl.load(beta + token * N_VALUES + head, mask=there, other=0)))
    weight = tl.where(there, weight, 0.0)
    between = tl.where(row > column, log_g[:, None], 0.0)
    place = (tl.program_id(0) * N_VALUES + head) * SIZE
    square = place * SIZE + row * SIZE + column
    apart = tl.where(row >= column, tl.exp(tl.cumsum(between, axis=0)), 0.0)
    tl.store(scores + square, asked * apart * of_q[:, None] * of_k[None, :])
    apart = tl.where(row < column, tl.exp(tl.cumsum(tl.where(row < column, log_g[None, :], 0.0), axis=1)), 0.0)
    above = among * apart * of_k[:, None] * (of_k * weight)[None, :]  # the system, transposed: rows of sums are at hand
    found = tl.where(row == column, 1.0, 0.0)
    for n in range(1, SIZE):
        theirs = tl.sum(tl.where(column == n, above, 0.0), axis=1)
        found -= tl.where(row == n, tl.sum(theirs[:, None] * found, axis=0)[None, :], 0.0)
    tl.store(inverse + square, found * weight[None, :])
    before = tl.exp(tl.cumsum(log_g, axis=0))
    tl.store(gates + 4 * place + t, before * of_k)
    tl.store(gates + 4 * place + SIZE + t, before * of_q)
    tl.store(gates + 4 * place + 2 * SIZE + t, tl.exp(tl.sum(between, axis=0)) * of_k)
    tl.store(gates + 4 * place + 3 * SIZE + t, tl.zeros([SIZE], tl.float32) + tl.exp(tl.sum(log_g, axis=0)))


@triton.jit
def _over_chunks(
    mixed,
    inverse,
    scores,
    gates,
    states,
    sequence,
    n_past,
    out,
    n_tokens,
    state_size,
    first_state,
    N_KEYS: tl.constexpr,
    N_VALUES: tl.constexpr,
    TILED: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    SIZE: tl.constexpr,
    PART: tl.constexpr,
    N_PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program some columns of a head's state, in parts of its rows."""
    head, block, t, i = tl.program_id(0), tl.program_id(1), tl.arange(0, SIZE), tl.arange(0, PART)
    lane = tl.arange(0, COLUMNS)
    j = block * COLUMNS + lane
    key_head = head % N_KEYS if TILED else head // (N_VALUES // N_KEYS)
    place = (head * tl.num_programs(1) + block) * KEY_DIM * COLUMNS
    kept = states + tl.load(sequence) * state_size + first_state + place + i[:, None] * COLUMNS + lane[None, :]
    n_kept = tl.where(tl.load(n_past) > 0, KEY_DIM, 0)
    state = ()
    for part in tl.static_range(N_PARTS):
        old = (part * PART + i < n_kept)[:, None] & (j < VALUE_DIM)[None, :]
        held = tl.load(kept + part * PART * COLUMNS, mask=old, other=0)
        state = state + (held,)  # type: ignore[assignment] # noqa: RUF005  # no stars here
    stride: tl.constexpr = 2 * N_KEYS * KEY_DIM + N_VALUES * VALUE_DIM
    for first in tl.range(0, n_tokens, SIZE, num_stages=1):  # copies made ahead would need too much shared memory
        token = first + t
        inside = token < n_tokens
        whose = (first // SIZE * N_VALUES + head) * SIZE
        gate = gates + 4 * whose + t
        square = whose * SIZE + t[:, None] * SIZE + t[None, :]
        q = mixed + token[:, None] * stride + key_head * KEY_DIM + i[None, :]
        known = tl.zeros([SIZE, COLUMNS], tl.float32)
        made = tl.zeros([SIZE, COLUMNS], tl.float32)
        for part in tl.static_range(N_PARTS):
            rows = inside[:, None] & (part * PART + i < KEY_DIM)[None, :]
            k = tl.load(q + N_KEYS * KEY_DIM + part * PART, mask=rows, other=0)
            known = tl.dot(k, state[part], known, input_precision="ieee")
            made = tl.dot(tl.load(q + part * PART, mask=rows, other=0), state[part], made, input_precision="ieee")
        v = mixed + token[:, None] * stride + 2 * N_KEYS * KEY_DIM + head * VALUE_DIM + j[None, :]
        there = inside[:, None] & (j < VALUE_DIM)[None, :]
        wrong = tl.load(v, mask=there, other=0) - tl.load(gate)[:, None] * known
        new = tl.dot(tl.load(inverse + square), wrong, input_precision="ieee")
        made *= tl.load(gate + SIZE)[:, None]
        made = tl.dot(tl.load(scores + square), new, made, input_precision="ieee")
        tl.store(out + (token[:, None] * N_VALUES + head) * VALUE_DIM + j[None, :], made, mask=there)
        new *= tl.load(gate + 2 * SIZE)[:, None]
        left = tl.load(gates + 4 * whose + 3 * SIZE)
        later = ()
        for part in tl.static_range(N_PARTS):
            columns = (part * PART + i < KEY_DIM)[:, None] & inside[None, :]
            turned = mixed + token[None, :] * stride + (N_KEYS + key_head) * KEY_DIM + part * PART + i[:, None]
            grown = tl.dot(tl.load(turned, mask=columns, other=0), new, left * state[part], input_precision="ieee")
            later = later + (grown,)  # type: ignore[assignment] # noqa: RUF005  # no stars here
        state = later
    for part in tl.static_range(N_PARTS):
        own = (part * PART + i < KEY_DIM)[:, None] & (lane >= 0)[None, :]
        tl.store(kept + part * PART * COLUMNS, state[part], mask=own)
