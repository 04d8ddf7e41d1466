"""Sums of products in float32 as the kernels define them: which numbers are rounded, and in which order they are added.

Whole numbers within a group of columns are exact in any order, so that sets of instructions differ in one thing only:
whether a product is rounded before it is added.
"""

import platform
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.jit import RUNG, Rung

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

IS_FUSED = RUNG is not Rung.ANY or platform.machine() in ("aarch64", "arm64", "ARM64")
"""x86's CPUs without AVX2 round twice."""


def fused(x: F32, y: F32, z: F32) -> F32:
    """x * y + z, rounded once where the rung can."""
    if not IS_FUSED:
        return x * y + z
    product = x.astype(np.float64) * y  # exact
    total = product + z
    back = total - product
    error = (product - (total - back)) + (z - back)
    # Rounded to odd, what is lost decides the second rounding as well (Boldo and Melquiond, 2008).
    even = (np.ascontiguousarray(total).view(np.int64) & 1 == 0) & (error != 0)
    return np.where(even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total).astype(np.float32)


def total(lanes: F32) -> F32:
    """[..., 16] -> [...], in halves."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


@dataclass(frozen=True)
class Groups:
    """Rows and tokens in groups of columns: sums of products [T, R, G], scales and minima [R, G], of tokens d and sums
    of quants [T, G]. Scales are a product of few bits, and exact.
    """

    products: Ints
    scales: F32
    mins: F32 | None
    d: F32
    sums: F32
    size: int


def groups_of(kind: GGMLType, rows: WeightRows, x: Vectors) -> Groups:
    """Of rows that lie one by one, repacked."""
    f, n, p = FORMATS[kind], x.n, x.stride
    q = np.zeros((rows.n_rows, p), np.int8)
    scales, mins = np.zeros((2, rows.n_rows, n // f.group), np.float32)
    for i in range(rows.n_rows):
        places = (room[i].ctypes.data for room in (q, scales, mins))
        f.unpack.call(rows.data.ctypes.data + i * rows.stride, n, 0, n, *places)
    w = q[:, :n].reshape(rows.n_rows, -1, f.group).astype(np.int64)
    inputs = x.records[:, :n].view(np.int8).reshape(len(x.records), -1, f.group).astype(np.int64)
    d = np.ascontiguousarray(x.records[:, p : p + p // 8]).view(np.float32)[:, : n // 32]
    return Groups(
        np.einsum("tgc,rgc->trg", inputs, w),
        scales,
        mins if f.has_min else None,
        d.repeat(32 // f.group, axis=1),
        inputs.sum(axis=2).astype(np.float32),
        f.group,
    )


def by_lanes(g: Groups) -> F32:
    """DOT: a lane takes every 16th group; minima are summed apart. [T, R]"""
    lanes, least = np.zeros((2, *g.products.shape[:2], 16), np.float32)
    for at in range(0, g.products.shape[2], 16):
        here = slice(at, at + 16)
        products = g.products[:, :, here].astype(np.float32)
        n = products.shape[2]
        d = g.d[:, None, here]
        lanes[..., :n] = fused(products, g.scales[:, here] * d, lanes[..., :n])
        if g.mins is not None:
            sums = np.broadcast_to(g.sums[:, None, here], products.shape)
            least[..., :n] = fused(sums, g.mins[:, here] * d, least[..., :n])
    return total(lanes if g.mins is None else lanes + least)


def by_columns(g: Groups, *, asked: bool = False) -> F32:
    """Products of many, and (asked) DOT_BUNDLE: group after group, each times (scale * d). [T, R]

    Minima meet d times sums of quants, or, where rows are asked, sums meet minima times d.
    """
    result = np.zeros(g.products.shape[:2], np.float32)
    for i in range(g.products.shape[2]):
        d, products = g.d[:, i, None], g.products[:, :, i].astype(np.float32)
        result = fused(products, g.scales[:, i] * d, result)
        if g.mins is not None:
            mins, sums = np.broadcast_arrays(g.mins[:, i], g.sums[:, i, None])
            result = fused(sums, mins * d, result) if asked else fused(mins, sums * d, result)
    return result


def by_halves(g: Groups) -> F32:
    """DOT_WHOLE: the same, but two groups of 16 are added before they meet d. [T, R]"""
    if g.size == 32:
        return by_columns(g)
    result = np.zeros(g.products.shape[:2], np.float32)
    for i in range(0, g.products.shape[2], 2):
        first, second = (g.products[:, :, j].astype(np.float32) for j in (i, i + 1))
        scaled = fused(second, np.broadcast_to(g.scales[:, i + 1], second.shape), first * g.scales[:, i])
        result = fused(scaled, np.broadcast_to(g.d[:, i, None], scaled.shape), result)
        if g.mins is not None:
            for j in (i, i + 1):
                mins, sums = np.broadcast_arrays(g.mins[:, j], g.sums[:, j, None] * g.d[:, j, None])
                result = fused(mins, sums, result)
    return result


def floats_by_lanes(w: F32, x: F32) -> F32:
    """DOT of float formats: four times 16 lanes, the last columns one by one, rounded twice. [T, R]"""
    n, lanes = w.shape[1], np.zeros((4, len(x), len(w), 16), np.float32)
    whole = n // 64 * 64
    for at in range(0, n // 16 * 16, 16):
        k = at // 16 % 4 if at < whole else 0
        a, b = np.broadcast_arrays(w[None, :, at : at + 16], x[:, None, at : at + 16])
        lanes[k] = fused(a, b, lanes[k])
    result = total((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]))
    for at in range(n // 16 * 16, n):
        result = result + w[:, at] * x[:, at, None]
    return result


def floats_by_columns(w: F32, x: F32) -> F32:
    """Products of many: column after column. [T, R]"""
    result = np.zeros((len(x), len(w)), np.float32)
    for at in range(w.shape[1]):
        a, b = np.broadcast_arrays(w[:, at], x[:, at, None])
        result = fused(a, b, result)
    return result
