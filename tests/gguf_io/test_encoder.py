import gguf
import numpy as np
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, dequantize, quantize

# Type -> the largest error, as a fraction of a block's largest number (half a step of the type's grid, or a whole
# one where the grid is lopsided).
ENCODED = {
    GGMLType.F32: 0.0,
    GGMLType.F16: 2**-11,
    GGMLType.BF16: 2**-8,
    GGMLType.Q8_0: 1 / 127,
    GGMLType.Q4_0: 1 / 8,
    GGMLType.Q4_1: 1 / 7,
    GGMLType.Q5_0: 1 / 16,
    GGMLType.Q5_1: 1 / 15,
    GGMLType.TQ1_0: 0.51,
    GGMLType.TQ2_0: 0.51,
    GGMLType.MXFP4: 1 / 3,
}


@pytest.mark.parametrize("kind", ENCODED, ids=lambda kind: kind.name)
def test_bytes_are_those_of_the_gguf_package_and_decode_near_the_numbers(kind: GGMLType) -> None:
    numbers = np.random.default_rng(5).standard_normal((2, 3, 512)).astype(np.float32)
    stored = quantize(numbers, kind)
    assert stored.dtype == np.uint8
    assert stored.shape == (2, 3, 512 // BLOCK[kind][0] * BLOCK[kind][1])
    wanted = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType(kind))
    assert stored.tobytes() == wanted.tobytes()
    decoded = dequantize(stored.reshape(6, -1), kind).reshape(numbers.shape)
    assert np.abs(decoded - numbers).max() <= ENCODED[kind] * np.abs(numbers).max()


@pytest.mark.parametrize("kind", sorted(set(GGMLType) - set(ENCODED)), ids=lambda kind: kind.name)
def test_types_that_are_only_read(kind: GGMLType) -> None:
    with pytest.raises(GGUFError, match=f"cannot be quantised to {kind.name}"):
        quantize(np.zeros((1, 512), np.float32), kind)


@pytest.mark.parametrize("shape", [(), (5,), (2, 31), (32, 0, 33)])
def test_rows_must_be_whole_blocks(shape: tuple[int, ...]) -> None:
    with pytest.raises(GGUFError, match="its rows are no whole blocks of 32"):
        quantize(np.zeros(shape, np.float32), GGMLType.Q4_0)


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.Q4_0, GGMLType.Q8_0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65536.0])
def test_numbers_that_would_be_spoilt(kind: GGMLType, bad: float) -> None:
    numbers = np.zeros((2, 32), np.float32)
    numbers[1, 3] = bad
    with pytest.raises(GGUFError, match=f"cannot be stored as {kind.name}"):
        quantize(numbers, kind)


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.BF16])
def test_wide_types_keep_large_numbers(kind: GGMLType) -> None:
    numbers = np.array([[2.0**100, np.inf, -np.inf, np.nan]], np.float32)
    np.testing.assert_array_equal(dequantize(quantize(numbers, kind), kind), numbers)


@pytest.mark.parametrize("kind", ENCODED, ids=lambda kind: kind.name)
def test_zeros_tiny_numbers_and_nothing(kind: GGMLType) -> None:
    for numbers in (np.zeros((1, 256), np.float32), np.full((1, 256), 1e-42, np.float32)):
        decoded = dequantize(quantize(numbers, kind), kind)
        np.testing.assert_allclose(decoded, numbers, atol=1e-37)
    assert quantize(np.zeros((0, 256), np.float32), kind).shape == (0, 256 // BLOCK[kind][0] * BLOCK[kind][1])


def test_input_need_not_be_contiguous_nor_float32() -> None:
    numbers = np.random.default_rng(6).standard_normal((64, 32))
    np.testing.assert_array_equal(
        quantize(numbers.T.astype(np.float32)[:, :32], GGMLType.Q8_0),
        quantize(np.ascontiguousarray(numbers.T[:, :32], np.float32), GGMLType.Q8_0),
    )
