"""float16 of wider numbers, as NumPy rounds, on every CPU."""

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, GGUFError, quantize
from powerinfer_cli.kernels.cpu.encoding import encode_rows

pytestmark = pytest.mark.rungs

# Every float16, what lies in the middle between two, and just beside that; those that are too large are left out.
HALVES = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
MIDDLES = (HALVES[1:].astype(np.float64) + HALVES[:-1]) / 2
BESIDE = [np.nextafter(MIDDLES.astype(np.float32), to) for to in (np.float32(0), np.float32(1e9))]
NUMBERS = np.concatenate([HALVES, MIDDLES.astype(np.float32), *BESIDE])


def test_float32() -> None:
    for sign in (1, -1):
        x = sign * NUMBERS[None]
        made = encode_rows(x.view(np.uint8), GGMLType.F32, GGMLType.F16)
        np.testing.assert_array_equal(made.view(np.uint16), x.astype(np.float16).view(np.uint16))


def test_every_bfloat16() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = (bits.astype(np.uint32) << 16).view(np.float32)
    fits = np.abs(x) <= 65504
    made = encode_rows(bits[fits][None].view(np.uint8), GGMLType.BF16, GGMLType.F16)
    np.testing.assert_array_equal(made.view(np.uint16)[0], x[fits].astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("source", [GGMLType.F32, GGMLType.BF16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 16), (2, 33), (0, 8)])
def test_shapes(source: GGMLType, shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    stored = quantize(x, source)
    wide = stored.view(np.float32) if source is GGMLType.F32 else (stored.view(np.uint16).astype(np.uint32) << 16)
    wanted = wide.view(np.float32).astype(np.float16).view(np.uint8).reshape(shape[0], -1 if shape[0] else 16)
    np.testing.assert_array_equal(encode_rows(stored, source, GGMLType.F16), wanted)


@pytest.mark.parametrize("value", [65505.0, -1e9, np.inf, np.nan])
def test_too_large(value: float) -> None:
    x = np.array([[1.0, value]], np.float32)
    with pytest.raises(GGUFError, match="cannot be stored as F16"):
        encode_rows(x.view(np.uint8), GGMLType.F32, GGMLType.F16)
