"""Scales that are no numbers, in each type that has some."""

import numpy as np
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor, dequantize, spoilt_row
from powerinfer_cli.gguf_io.scales import HALVES

SHAPE = (5, 512)


def tensor_of(kind: GGMLType) -> Tensor:
    """Bytes of which no two next to each other are all ones where an exponent may lie."""
    size, block = BLOCK[kind]
    data = np.random.default_rng(0).integers(0, 0x3C, (SHAPE[0], SHAPE[1] // size * block), np.uint8)
    return Tensor("one", kind, SHAPE, data.reshape(-1))


@pytest.mark.parametrize("bits", [0x7E00, 0xFC00])  # no number, and minus infinity
@pytest.mark.parametrize("kind", HALVES)
def test_each_scale_and_minimum_is_looked_at(kind: GGMLType, bits: int) -> None:
    for at in HALVES[kind]:
        tensor = tensor_of(kind)
        assert spoilt_row(tensor) is None
        assert np.isfinite(tensor.to_float32()).all()
        block = BLOCK[kind][1]
        tensor.rows()[3, block + at : block + at + 2] = np.array([bits], np.uint16).view(np.uint8)
        assert not np.isfinite(dequantize(tensor.rows(), kind)[3]).all(), "that is where it lies"
        assert spoilt_row(tensor) == 3


@pytest.mark.parametrize(("kind", "bits", "width"), [(GGMLType.F32, 0x7FC00000, 4), (GGMLType.BF16, 0x7F80, 2)])
def test_wide_numbers_are_looked_at(kind: GGMLType, bits: int, width: int) -> None:
    tensor = tensor_of(kind)
    assert spoilt_row(tensor) is None
    tensor.rows()[4, -width:] = np.array([bits], f"<u{width}").view(np.uint8)
    assert spoilt_row(tensor) == 4


def test_a_large_half_is_a_number() -> None:
    tensor = tensor_of(GGMLType.F16)
    tensor.rows()[0, :2] = np.array([65504], np.float16).view(np.uint8)
    assert spoilt_row(tensor) is None
