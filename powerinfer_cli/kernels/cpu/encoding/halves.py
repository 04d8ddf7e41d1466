"""float32 and bfloat16 as float16, to the nearest, of two the even one, as NumPy rounds."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, dequantize
from powerinfer_cli.kernels.jit import exact_helper, kernel, types
from powerinfer_cli.kernels.simd import f32, load_bf16, load_f32, store_f16, u16

__all__ = ["WIDE", "encode_halves", "halve"]

Bytes = npt.NDArray[np.uint8]

WIDE = (GGMLType.F32, GGMLType.BF16)
AT_ONCE = 16


def encode_halves(stored: Bytes, source: GGMLType) -> Bytes:
    """Numbers that float16 holds, as bytes [n_rows, row_bytes] of one of `WIDE`, to bytes of F16."""
    size = BLOCK[source][1]
    n_rows, n_cols = len(stored), stored.shape[1] // size
    stored, out = np.ascontiguousarray(stored).reshape(-1), np.empty((n_rows, n_cols * 2), np.uint8)
    whole = out.size // 2 // AT_ONCE * AT_ONCE
    halve.call(stored.ctypes.data, out.ctypes.data, whole, source is GGMLType.BF16)
    rest = stored[whole * size :]
    if rest.size:
        out.reshape(-1)[whole * 2 :] = dequantize(rest[None], source)[0].astype(np.float16).view(np.uint8)
    return out


@exact_helper
def _load(x_at, is_short, i):
    if is_short:
        return load_bf16(u16(x_at), i)
    return load_f32(f32(x_at), i)


@kernel(types.void(*[types.int64] * 4), exact=True)
def halve(x_at, out_at, count, is_short):
    """count: a multiple of AT_ONCE. is_short: bfloat16."""
    out = u16(out_at)
    for i in range(0, count, AT_ONCE):
        store_f16(out, i, _load(x_at, is_short, i))
