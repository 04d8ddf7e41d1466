"""Products with weight rows in Triton: all rows, chosen rows, and rows dequantised for torch's matrix products."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.device import reference
from powerinfer_cli.kernels.device.planar import PlanarRows
from powerinfer_cli.kernels.device.triton_rows import (
    dot_rows,
    dot_tokens,
    group_scale,
    group_tile,
    launch,
    rows_of,
    tile_of,
)

__all__ = ["chosen_rows", "dequantize", "matmul_few", "matvec", "multiply_heads", "rows_at_once"]


ABREAST = 4  # tokens: as many sums as registers hold beside a tile


def rows_at_once(n_rows: int) -> int:
    """Rows of a program: several share what they read of x, unless that leaves multiprocessors without work."""
    return 4 if n_rows >= 4096 else 2 if n_rows >= 1024 else 1


def matvec(
    rows: PlanarRows, x: Tensor, bias: Tensor | None = None, out: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """rows @ x [n_cols] (+ bias [n_rows]) -> [n_rows]; with `relu` only what is positive of it."""
    out = torch.empty(rows.n_rows, device=x.device) if out is None else out
    step, tile = rows_at_once(rows.n_rows), tile_of(rows)
    grid = (triton.cdiv(rows.n_rows, step),)
    launch(_matvec, grid, x, bias, out, rows_of(rows), rows.n_rows, relu, step, tile.width, warps=tile.warps)
    return out


def matmul_few(rows: PlanarRows, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out [T, n_rows] = x [T, n_cols] @ rows.T (+ bias): each as `matvec` has it, rows read once for ABREAST tokens."""
    step, tile = rows_at_once(rows.n_rows), tile_of(rows)
    grid = (triton.cdiv(rows.n_rows, step),)
    for first in range(0, len(x), ABREAST):
        some, to = x[first : first + ABREAST], out[first : first + ABREAST]
        known = (len(some), step, tile.width)
        launch(_matmul_few, grid, some, bias, to, rows_of(rows), rows.n_rows, *known, warps=tile.warps)


def chosen_rows(rows: PlanarRows, x: Tensor, indices: Tensor, out: Tensor | None = None) -> Tensor:
    """rows[indices] @ x, in the indices' order; indices int64 [n], -1: nothing is read, and the result is 0. -> [n]"""
    out = torch.empty(len(indices), device=x.device) if out is None else out
    tile = tile_of(rows)
    launch(_chosen_rows, (len(indices),), x, indices, out, rows_of(rows), tile.width, warps=tile.warps)
    return out


def multiply_heads(rows: PlanarRows, x: Tensor) -> Tensor:
    """Each head by its own rows [H * m, n_cols]: x [T, H, n_cols] -> [T, H, m]; T small, as rows are read T times."""
    n_tokens, n_heads, _ = x.shape
    size, tile, step = rows.n_rows // n_heads, tile_of(rows), rows_at_once(rows.n_rows)
    out = torch.empty(n_tokens, n_heads, size, device=x.device)
    grid = (triton.cdiv(size, step), n_heads, n_tokens)
    launch(_heads, grid, x, out, rows_of(rows), size, step, tile.width, warps=tile.warps)
    return out


def dequantize(rows: PlanarRows, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n_rows, n_cols]"""
    if rows.scales is None:
        return reference.dequantize(rows, dtype)
    out = torch.empty(rows.n_rows, rows.n_cols, dtype=dtype, device=rows.device)
    tile = tile_of(rows)
    grid = (rows.n_rows, triton.cdiv(rows.n_cols // rows.layout.group, tile.width))
    launch(_dequantize, grid, out, rows_of(rows), tile.width, warps=tile.warps)
    return out


@triton.jit
def _matvec(x, bias, y, w, n_rows, RELU: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    valid = row < n_rows
    found = dot_rows(w, row, valid, x, R, WIDTH)
    if bias is not None:
        found += tl.load(bias + row, mask=valid, other=0)
    if RELU:
        found = tl.maximum(found, 0)
    tl.store(y + row, found, mask=valid)


@triton.jit
def _matmul_few(x, bias, y, w, n_rows, T: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    valid = row < n_rows
    totals = dot_tokens(w, row, valid, x, T, R, WIDTH)
    for t in tl.static_range(T):
        found = tl.sum(totals[t], axis=1)
        if bias is not None:
            found += tl.load(bias + row, mask=valid, other=0)
        tl.store(y + t * n_rows + row, found, mask=valid)


@triton.jit
def _chosen_rows(x, indices, y, w, WIDTH: tl.constexpr):
    i = tl.program_id(0) + tl.arange(0, 1)
    row = tl.load(indices + i)
    tl.store(y + i, dot_rows(w, row, row >= 0, x, 1, WIDTH))


@triton.jit
def _heads(x, y, w, size, R: tl.constexpr, WIDTH: tl.constexpr):
    """Some rows of a token's head."""
    row, head = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1).to(tl.int64)
    at = tl.program_id(2) * tl.num_programs(1) + head
    valid = row < size
    tl.store(y + at * size + row, dot_rows(w, head * size + row, valid, x + at * w.n_cols, R, WIDTH), mask=valid)


@triton.jit
def _dequantize(out, w, WIDTH: tl.constexpr):
    half: tl.constexpr = w.group // 2
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    g = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (g < w.n_cols // w.group)[None, :]
    low, high = group_tile(w, row, g, there)
    scale = group_scale(w.scales, w.super_scales, w, row, g, there)[:, :, None]
    low, high = low * scale, high * scale
    if w.mins is not None:
        minimum = group_scale(w.mins, w.super_mins, w, row, g, there)[:, :, None]
        low, high = low + minimum, high + minimum
    at = out + row[:, None, None] * w.n_cols + g[None, :, None] * w.group + tl.arange(0, half)[None, None, :]
    tl.store(at, low.to(out.dtype.element_ty), mask=there[:, :, None])
    tl.store(at + half, high.to(out.dtype.element_ty), mask=there[:, :, None])
