"""Operands for kernel tests, and their plain values; and how a test file is run again with fewer instructions."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, Tensor, dequantize
from powerinfer_cli.kernels.cpu.packing import pack
from powerinfer_cli.kernels.cpu.quantise import quantise_groups
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, aligned, make_vectors
from powerinfer_cli.kernels.formats import FORMATS, SLACK
from powerinfer_cli.kernels.jit import kernel, types
from powerinfer_cli.kernels.simd import f32
from tests.helpers.kernels.matrices import random_rows
from tests.helpers.kernels.teams import team_of

Floats = npt.NDArray[np.float64]


@kernel(types.void(types.int64, types.int64, types.int64), "test_quantise")
def _quantise(x, n, record):
    quantise_groups(f32(x), 0, n, record, n)


def weight_rows(
    kind: GGMLType, n_rows: int, n_cols: int, seed: int = 0, scratch_threads: int = 0
) -> tuple[WeightRows, Floats]:
    """Random rows of a type, repacked unless `scratch_threads` rearrange them on use; and their values in float64."""
    f = FORMATS[kind]
    raw = random_rows(kind, n_rows, n_cols, seed)
    raw = raw.view(np.uint8).reshape(n_rows, -1)
    values = dequantize(raw, kind).astype(np.float64).reshape(n_rows, n_cols)
    stride = f.row_bytes(n_cols)
    if f.repack is None or scratch_threads:
        data = aligned(raw.size + SLACK)
        data[: raw.size] = raw.reshape(-1)
        data[raw.size :] = 0xFF
        scratch = aligned(scratch_threads * (stride + SLACK)).reshape(scratch_threads, -1) if scratch_threads else None
        return WeightRows(f, n_rows, n_cols, data, raw.shape[1], scratch), values
    data = aligned(n_rows * stride + SLACK)
    data[:] = 0xFF
    for i in range(n_rows):
        f.repack.call(raw[i].ctypes.data, data.ctypes.data + i * stride, n_cols)
    return WeightRows(f, n_rows, n_cols, data, stride), values


def bundled_rows(
    kind: GGMLType,
    n_rows: int,
    n_cols: int,
    seed: int = 0,
    *,
    numbers: npt.NDArray[np.int32] | None = None,
    kind_of_bundles: Bundled = Bundled.ASKED,
) -> tuple[WeightRows, Floats]:
    """Random rows in bundles, or these of them; and the values of all, in float64. What lies behind is poisoned."""
    raw = random_rows(kind, n_rows, n_cols, seed).view(np.uint8).reshape(n_rows, -1)
    chosen = raw if numbers is None else raw[numbers]
    data = aligned(chosen.size + SLACK)[: chosen.size]
    data[:] = chosen.reshape(-1)
    rows = pack(Tensor("fc2", kind, (len(chosen), n_cols), data), team_of(1), bundled=kind_of_bundles)
    rows.data[-SLACK:] = 0xFF
    return rows, dequantize(raw, kind).astype(np.float64).reshape(n_rows, n_cols)


def random_vectors(room: int, n: int, seed: int = 1) -> Vectors:
    """So many random vectors, one of them 0, with their records."""
    vectors = make_vectors(room, n)
    vectors.floats[:, :n] = np.random.default_rng(seed).standard_normal((room, n))
    if room > 2:
        vectors.floats[1] = 0
    for floats, record in zip(vectors.floats, vectors.records, strict=True):
        _quantise.call(floats.ctypes.data, vectors.stride, record.ctypes.data)
    return vectors


def values_for(kind: GGMLType, x: Vectors) -> Floats:
    """What a matrix of this type multiplies with: the floats, or d * q of the records."""
    if FORMATS[kind].is_float:
        return x.floats[:, : x.n].astype(np.float64)
    p = x.stride
    q = x.records[:, :p].view(np.int8).astype(np.float64)
    d = np.ascontiguousarray(x.records[:, p : p + p // 8]).view(np.float32).astype(np.float64)
    return (q * d.repeat(32, axis=1))[:, : x.n]
