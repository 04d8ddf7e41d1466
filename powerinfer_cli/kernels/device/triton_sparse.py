"""The predictor and the sparse FFN for one token in Triton. A row that does not count is not read.

Four steps: each neuron's value (gate, and only where that is open, up); per range of neurons the list of those that
are not 0; per range and block of columns the sum of their down rows; the sum over ranges. Every sum has a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels import activation_codes
from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, EXACT
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK
from powerinfer_cli.kernels.device.planar import PlanarRows
from powerinfer_cli.kernels.device.reference import DeviceNeurons
from powerinfer_cli.kernels.device.triton_products import matvec, rows_at_once
from powerinfer_cli.kernels.device.triton_rows import dot_rows, group_scale, group_tile, launch, rows_of, tile_of
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Curve

__all__ = ["activate", "activated", "curve_numbers", "gated", "predict", "sparse_ffn"]

RANGES = 32  # of neurons, at most; each has sums of its own
_DOWN_COLUMNS = 512  # of a program, about
_DOWN_ROWS = 8  # at a time
_ASK, _ALWAYS, _EXACT = tl.constexpr(ASK), tl.constexpr(ALWAYS), tl.constexpr(EXACT)


def predict(
    fc1: PlanarRows,
    fc2: PlanarRows,
    x: Tensor,
    threshold: float,
    modes: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """fc2 @ relu(fc1 @ x) >= threshold, for one token: x [n_embd] -> uint8 [n]. Rows are read where modes say ASK."""
    hidden = matvec(fc1, x, relu=True)
    out = torch.empty(fc2.n_rows, dtype=torch.uint8, device=x.device) if out is None else out
    step, tile = rows_at_once(fc2.n_rows), tile_of(fc2)
    grid = (triton.cdiv(fc2.n_rows, step),)
    launch(_predict, grid, hidden, modes, out, rows_of(fc2), fc2.n_rows, threshold, step, tile.width, warps=tile.warps)
    return out


def activated(
    gate: Tensor | None,
    up: Tensor,
    activation: Activation,
    *,
    relu_on_up: bool = False,
    curve: Curve | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """act(gate) * up, or act(gate) * relu(up), or act(up) where there is no gate. Any one shape."""
    out = torch.empty_like(up) if out is None else out
    grid = (triton.cdiv(up.numel(), 1024),)
    code = ACTIVATION_CODES[activation]
    launch(_activated, grid, gate, up, out, up.numel(), *curve_numbers(curve), code, relu_on_up, 1024)
    return out


def curve_numbers(curve: Curve | None) -> tuple[float, ...]:
    """Four, whatever they are."""
    found = activation_codes.curve_numbers(curve)
    return (0.0,) * 4 if found is None else tuple(found.tolist())


def sparse_ffn(
    x: Tensor,
    mask: Tensor | None,
    neurons: DeviceNeurons,
    *,
    entries: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What those neurons that count make of x, for one token. x [n_embd] -> (y [n_embd], how many fired, int64 [1])."""
    gate, up = neurons.gate, neurons.up
    first, n = up if gate is None else gate, up.weight.n_rows
    values = torch.empty(n, device=x.device)
    opened = torch.empty(n, dtype=torch.uint8, device=x.device)
    first_tile, up_tile = tile_of(first.weight), tile_of(up.weight)
    launch(
        _values,
        (n,),
        *(x, mask, entries, rows_of(first.weight), first.bias, rows_of(up.weight), up.bias),
        *(
            values,
            opened,
            *curve_numbers(neurons.curve),
            gate is not None,
            ACTIVATION_CODES[neurons.activation],
            neurons.relu_on_up,
        ),
        *(first_tile.width, up_tile.width),
        warps=max(first_tile.warps, up_tile.warps),
    )
    return _weighted_sum(neurons.down.weight, values, opened, out)


def _weighted_sum(rows: PlanarRows, values: Tensor, opened: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of those rows whose value [n_rows] is not 0, each times its value; and how many are open."""
    n, n_cols, device = rows.n_rows, rows.n_cols, rows.device
    size = max(16, triton.next_power_of_2(triton.cdiv(n, RANGES)))
    n_ranges = triton.cdiv(n, size)
    indices = torch.empty(n_ranges, size, dtype=torch.int32, device=device)
    kept = torch.empty(n_ranges, size, device=device)
    counts = torch.empty(n_ranges, 2, dtype=torch.int32, device=device)  # listed, open
    launch(_list, (n_ranges,), values, opened, indices, kept, counts, n, size)
    sums = torch.empty(n_ranges, n_cols, device=device)
    unit = rows.layout.group or 1
    width = triton.next_power_of_2(min(_DOWN_COLUMNS, n_cols) // unit)
    grid = (triton.cdiv(n_cols, width * unit), n_ranges)
    launch(_down, grid, indices, kept, counts, sums, rows_of(rows), size, _DOWN_ROWS, width)
    y = torch.empty(n_cols, device=device) if out is None else out
    fired = torch.empty(1, dtype=torch.int64, device=device)
    launch(_total, (triton.cdiv(n_cols, 256),), sums, counts, y, fired, n_ranges, n_cols, RANGES, 256)
    return y, fired


@triton.jit
def _predict(hidden, modes, out, w, n_rows, threshold, R: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    valid = row < n_rows
    asked = valid
    if modes is not None:
        mode = tl.load(modes + row, mask=valid, other=0)
        asked = valid & (mode == _ASK)
    passed = asked & (dot_rows(w, row, asked, hidden, R, WIDTH) >= threshold)
    if modes is not None:
        passed = passed | (mode == _ALWAYS)
    tl.store(out + row, passed.to(tl.uint8), mask=valid)


@triton.jit
def activate(x, c0, c1, c2, c3, ACTIVATION: tl.constexpr):
    """c0 to c3: `curve_numbers`."""
    if ACTIVATION == 0:
        y = tl.maximum(x, 0)
    elif ACTIVATION == 1:
        y = tl.maximum(x, 0) * tl.maximum(x, 0)
    elif ACTIVATION == 2:
        y = tl.where(x > c0, x, 0)
    elif ACTIVATION == 3:
        y = x / (1 + tl.exp(-x))
    elif ACTIVATION == 4:
        y = x * (1 + tl.erf(x * 0.7071067811865476)) * 0.5
    elif ACTIVATION == 6:
        y = tl.where(x > 0, c0 * x * x, c1 * (tl.exp(tl.minimum(x, c3)) - 1 - x)) + c2 * x
    elif ACTIVATION == 7:
        y = tl.minimum(x, 7)
        y = y / (1 + tl.exp(tl.minimum(-1.702 * y, 80)))
    else:  # x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x**3)
        y = x / (1 + tl.exp(tl.minimum(-1.5957691216057308 * (x + 0.044715 * x * x * x), 80)))
    return y


@triton.jit
def gated(gate, up, c0, c1, c2, c3, ACTIVATION: tl.constexpr, RELU_ON_UP: tl.constexpr):
    """See `neuron_values`."""
    if ACTIVATION == 7:
        up = 1 + tl.maximum(tl.minimum(up, 7), -7)
    elif RELU_ON_UP:
        up = tl.maximum(up, 0)
    return up * activate(gate, c0, c1, c2, c3, ACTIVATION)


@triton.jit
def _activated(
    gate,
    up,
    out,
    n,
    c0,
    c1,
    c2,
    c3,
    ACTIVATION: tl.constexpr,
    RELU_ON_UP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(up + i, mask=i < n, other=0)
    if gate is None:
        value = activate(value, c0, c1, c2, c3, ACTIVATION)
    else:
        first = tl.load(gate + i, mask=i < n, other=0)
        value = gated(first, value, c0, c1, c2, c3, ACTIVATION, RELU_ON_UP)
    tl.store(out + i, value, mask=i < n)


@triton.jit
def _one_dot(w, row, bias, x, WIDTH: tl.constexpr):
    found = tl.sum(dot_rows(w, row + tl.arange(0, 1), row + tl.arange(0, 1) >= 0, x, 1, WIDTH))
    if bias is not None:
        found += tl.load(bias + row)
    return found


@triton.jit
def _values(
    x,
    mask,
    entries,
    gate,
    gate_bias,
    up,
    up_bias,
    values,
    opened,
    c0,
    c1,
    c2,
    c3,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RELU_ON_UP: tl.constexpr,
    GATE_WIDTH: tl.constexpr,
    UP_WIDTH: tl.constexpr,
):
    """A program a neuron: the rows of one that does not count are not read, nor the up row of one that is closed."""
    row = tl.program_id(0).to(tl.int64)
    value = 0.0
    is_open = True
    if mask is not None:
        is_open = tl.load(mask + (row if entries is None else tl.load(entries + row))) != 0
    if is_open:
        first = _one_dot(gate, row, gate_bias, x, GATE_WIDTH) if GATED else _one_dot(up, row, up_bias, x, UP_WIDTH)
        if ACTIVATION < _EXACT:
            is_open = activate(first, c0, c1, c2, c3, ACTIVATION) > 0
        if not GATED:
            value = activate(first, c0, c1, c2, c3, ACTIVATION)
        elif is_open:
            second = _one_dot(up, row, up_bias, x, UP_WIDTH)
            value = gated(first, second, c0, c1, c2, c3, ACTIVATION, RELU_ON_UP)
    tl.store(values + row, value)
    tl.store(opened + row, tl.where(is_open, 1, 0).to(tl.uint8))


@triton.jit
def _list(values, opened, indices, kept, counts, n, SIZE: tl.constexpr):
    """Of a range of neurons those whose value is not 0, in their order; how many, and how many fired."""
    part = tl.program_id(0)
    i = tl.arange(0, SIZE)
    row = part * SIZE + i
    value = tl.load(values + row, mask=row < n, other=0)
    wanted = (value != 0).to(tl.int32)
    place = part * SIZE + tl.cumsum(wanted, 0) - 1
    tl.store(indices + place, row, mask=wanted != 0)
    tl.store(kept + place, value, mask=wanted != 0)
    tl.store(counts + part * 2, tl.sum(wanted))
    tl.store(counts + part * 2 + 1, tl.sum(tl.load(opened + row, mask=row < n, other=0).to(tl.int32)))


@triton.jit
def _down(indices, kept, counts, sums, w, SIZE: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    """The sum of a range's listed rows, each times its value, over a block of columns."""
    part = tl.program_id(1)
    count = tl.load(counts + part * 2)
    unit = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    if w.group == 0:
        total = tl.zeros([R, WIDTH], tl.float32)
        for first in range(0, count, R):
            row, value, valid = _listed(indices, kept, part * SIZE, first, count, R)
            there = valid[:, None] & (unit < w.n_cols)[None, :]
            weights = tl.load(w.quants + row[:, None] * w.n_cols + unit[None, :], mask=there, other=0)
            total += value[:, None] * weights.to(tl.float32)
        tl.store(sums + part * w.n_cols + unit, tl.sum(total, axis=0), mask=unit < w.n_cols)
    else:
        half: tl.constexpr = (w.group + 1) // 2
        inside = (unit < w.n_cols // max(w.group, 1))[None, :]
        low, high = tl.zeros([R, WIDTH, half], tl.float32), tl.zeros([R, WIDTH, half], tl.float32)
        for first in range(0, count, R):
            row, value, valid = _listed(indices, kept, part * SIZE, first, count, R)
            there = valid[:, None] & inside
            one, other = group_tile(w, row, unit, there)
            scale = (value[:, None] * group_scale(w.scales, w.super_scales, w, row, unit, there))[:, :, None]
            low += one * scale
            high += other * scale
            if w.mins is not None:
                minimum = value[:, None] * group_scale(w.mins, w.super_mins, w, row, unit, there)
                low += minimum[:, :, None]
                high += minimum[:, :, None]
        at = sums + part * w.n_cols + unit[:, None] * w.group + tl.arange(0, half)[None, :]
        there_at = (unit < w.n_cols // max(w.group, 1))[:, None]
        tl.store(at, tl.sum(low, axis=0), mask=there_at)
        tl.store(at + half, tl.sum(high, axis=0), mask=there_at)


@triton.jit
def _listed(indices, kept, start, first, count, R: tl.constexpr):
    i = first + tl.arange(0, R)
    row = tl.load(indices + start + i, mask=i < count, other=0).to(tl.int64)
    return row, tl.load(kept + start + i, mask=i < count, other=0), i < count


@triton.jit
def _total(sums, counts, y, fired, n_ranges, n_cols, RANGES: tl.constexpr, BLOCK: tl.constexpr):
    part, column = tl.arange(0, RANGES), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = (part < n_ranges)[:, None] & (column < n_cols)[None, :]
    found = tl.load(sums + part[:, None] * n_cols + column[None, :], mask=there, other=0)
    tl.store(y + column, tl.sum(found, axis=0), mask=column < n_cols)
    if tl.program_id(0) == 0:
        tl.store(fired, tl.sum(tl.load(counts + part * 2 + 1, mask=part < n_ranges, other=0)).to(tl.int64))
