"""A token's chosen experts in Triton. Which slot an expert has is looked up on the device; without one nothing is read.

Two steps: the neurons of all chosen experts; then, of each column, the sum over experts, in their order. Where the
activation has exact zeros, up rows of neurons whose gate is closed are not read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES
from powerinfer_cli.kernels.device.reference import DeviceNeurons
from powerinfer_cli.kernels.device.triton_products import rows_at_once
from powerinfer_cli.kernels.device.triton_rows import dot_rows, launch, rows_of, tile_of
from powerinfer_cli.kernels.device.triton_sparse import activate, curve_numbers, gated

__all__ = ["add_experts"]


def add_experts(
    x: Tensor, chosen: Tensor, weights: Tensor, slots: Tensor, neurons: DeviceNeurons, out: Tensor, *, on_input: bool
) -> Tensor:
    """See `Ops.add_experts_of_one`."""
    n_embd, n_chosen = len(x), len(chosen)
    gate, up, down = neurons.gate, neurons.up, neurons.down
    first, ff = up if gate is None else gate, down.weight.n_cols
    values = torch.empty(n_chosen, ff, device=x.device)
    first_tile, up_tile, step = tile_of(first.weight), tile_of(up.weight), rows_at_once(n_chosen * ff)
    launch(
        _expert_values,
        (triton.cdiv(ff, step), n_chosen),
        *(x, chosen, weights, slots, rows_of(first.weight), first.bias, rows_of(up.weight), up.bias, values, ff),
        *curve_numbers(neurons.curve),
        *(gate is not None, ACTIVATION_CODES[neurons.activation], neurons.relu_on_up, on_input),
        neurons.activation.has_exact_zeros,
        *(step, first_tile.width, up_tile.width),
        warps=max(first_tile.warps, up_tile.warps),
    )
    tile, step = tile_of(down.weight), rows_at_once(n_embd)
    launch(
        _expert_sums,
        (triton.cdiv(n_embd, step),),
        *(values, chosen, weights, slots, rows_of(down.weight), down.bias, out, n_embd),
        *(n_chosen, not on_input, step, tile.width),
        warps=tile.warps,
    )
    return out


@triton.jit
def _dots(w, row, valid, bias, x, weight, R: tl.constexpr, WIDTH: tl.constexpr):
    """weight * rows . x, with the rows' biases."""
    found = weight * dot_rows(w, row, valid, x, R, WIDTH)
    if bias is not None:
        found += tl.load(bias + row, mask=valid, other=0)
    return found


@triton.jit
def _expert_values(
    x,
    chosen,
    weights,
    slots,
    gate,
    gate_bias,
    up,
    up_bias,
    values,
    ff,
    c0,
    c1,
    c2,
    c3,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RELU_ON_UP: tl.constexpr,
    ON_INPUT: tl.constexpr,
    ZEROS: tl.constexpr,
    R: tl.constexpr,
    GATE_WIDTH: tl.constexpr,
    UP_WIDTH: tl.constexpr,
):
    """A program some neurons of a chosen expert."""
    j, i = tl.program_id(1), tl.program_id(0) * R + tl.arange(0, R)
    slot = tl.load(slots + tl.load(chosen + j))
    row = slot * ff + i
    valid = (i < ff) & (row >= 0)
    weight = tl.load(weights + j) if ON_INPUT else 1.0
    needed = valid
    if GATED:
        first = _dots(gate, row, valid, gate_bias, x, weight, R, GATE_WIDTH)
        if ZEROS:
            needed = valid & (activate(first, c0, c1, c2, c3, ACTIVATION) > 0)
    value = _dots(up, row, needed, up_bias, x, weight, R, UP_WIDTH)
    if GATED:
        value = gated(first, value, c0, c1, c2, c3, ACTIVATION, RELU_ON_UP)
    else:
        value = activate(value, c0, c1, c2, c3, ACTIVATION)
    tl.store(values + j * ff + i, tl.where(valid, value, 0), mask=i < ff)


@triton.jit
def _expert_sums(
    values,
    chosen,
    weights,
    slots,
    down,
    bias,
    out,
    n_embd,
    N_CHOSEN: tl.constexpr,
    WEIGHED: tl.constexpr,
    R: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A program some columns, over all chosen experts that have a slot."""
    i = tl.program_id(0) * R + tl.arange(0, R)
    inside = i < n_embd
    total = tl.load(out + i, mask=inside, other=0)
    for j in range(N_CHOSEN):
        slot = tl.load(slots + tl.load(chosen + j))
        row = slot * n_embd + i
        valid = inside & (row >= 0)
        made = _dots(down, row, valid, bias, values + j * down.n_cols, 1.0, R, WIDTH)
        if WEIGHED:
            made *= tl.load(weights + j)
        total += tl.where(valid, made, 0)
    tl.store(out + i, total, mask=inside)
