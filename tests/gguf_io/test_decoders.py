import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, dequantize
from powerinfer_cli.gguf_io.decoders.dispatch import DECODERS, NUMBERS_AT_ONCE

# The gguf package reads these two from the files, but cannot decode them yet; ggml can.
OWN_TYPES = {GGMLType.Q1_0, GGMLType.Q2_0}
PEER_TYPES = [kind for kind in DECODERS if kind not in OWN_TYPES]


def peer(data: npt.NDArray[np.uint8], kind: GGMLType) -> npt.NDArray[np.float32]:
    with np.errstate(all="ignore"):
        numbers: npt.NDArray[np.float32] = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(kind))
    return numbers


def assert_same_bits(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    """Equal in every bit, the sign of zero too; what is no number must be none in both."""
    assert found.dtype == wanted.dtype == np.float32
    assert found.shape == wanted.shape
    no_number = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), no_number)
    np.testing.assert_array_equal(found.view(np.uint32)[~no_number], wanted.view(np.uint32)[~no_number])


def test_every_type_that_the_gguf_package_decodes_is_there() -> None:
    decoded = []
    for kind in gguf.GGMLQuantizationType:
        try:
            gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            continue
        decoded.append(kind.value)
    assert len(decoded) >= 26
    assert sorted(decoded) == sorted(kind.value for kind in PEER_TYPES)


@pytest.mark.parametrize("kind", PEER_TYPES, ids=lambda kind: kind.name)
def test_random_bytes_decode_as_in_the_gguf_package(kind: GGMLType) -> None:
    random = np.random.default_rng(kind.value)
    for n_rows, n_blocks in [(1, 1), (1, 7), (3, 5), (17, 2), (33, 1), (101, 3)]:
        data = random.integers(0, 256, (n_rows, n_blocks * BLOCK[kind][1]), np.uint8)
        assert_same_bits(dequantize(data, kind), peer(data, kind))


@pytest.mark.parametrize("kind", PEER_TYPES, ids=lambda kind: kind.name)
@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_chosen_bytes_decode_as_in_the_gguf_package(kind: GGMLType, draw: st.DataObject) -> None:
    row_bytes = BLOCK[kind][1]
    n_rows = draw.draw(st.integers(1, 3))
    content = draw.draw(st.binary(min_size=n_rows * row_bytes, max_size=n_rows * row_bytes))
    data = np.frombuffer(content, np.uint8).reshape(n_rows, row_bytes)
    assert_same_bits(dequantize(data, kind), peer(data, kind))


@pytest.mark.parametrize("kind", PEER_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7C, 0x7F, 0x80, 0xFF])
def test_uniform_bytes_decode_as_in_the_gguf_package(kind: GGMLType, byte: int) -> None:
    data = np.full((2, 2 * BLOCK[kind][1]), byte, np.uint8)
    assert_same_bits(dequantize(data, kind), peer(data, kind))


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.BF16], ids=lambda kind: kind.name)
def test_every_sixteen_bit_float(kind: GGMLType) -> None:
    data = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(16, -1)
    assert_same_bits(dequantize(data, kind), peer(data, kind))


@pytest.mark.parametrize("kind", [GGMLType.MXFP4, GGMLType.NVFP4], ids=lambda kind: kind.name)
def test_every_scale_byte(kind: GGMLType) -> None:
    block = BLOCK[kind][1]
    data = np.random.default_rng(1).integers(0, 256, (256, block), np.uint8)
    data[:, : 4 if kind is GGMLType.NVFP4 else 1] = np.arange(256, dtype=np.uint8)[:, None]
    assert_same_bits(dequantize(data, kind), peer(data, kind))


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.Q4_0, GGMLType.Q6_K, GGMLType.IQ1_M])
def test_more_numbers_than_go_through_at_once(kind: GGMLType) -> None:
    block_size, block_bytes = BLOCK[kind]
    n_blocks = NUMBERS_AT_ONCE // block_size // 3 + 1
    data = np.random.default_rng(2).integers(0, 256, (7, n_blocks * block_bytes), np.uint8)
    assert_same_bits(dequantize(data, kind), peer(data, kind))


@pytest.mark.parametrize("kind", DECODERS, ids=lambda kind: kind.name)
def test_no_rows_and_empty_rows(kind: GGMLType) -> None:
    block_size, block_bytes = BLOCK[kind]
    assert dequantize(np.empty((0, 3 * block_bytes), np.uint8), kind).shape == (0, 3 * block_size)
    assert dequantize(np.empty((5, 0), np.uint8), kind).shape == (5, 0)


@pytest.mark.parametrize("kind", DECODERS, ids=lambda kind: kind.name)
def test_scattered_and_misaligned_rows(kind: GGMLType) -> None:
    row = 2 * BLOCK[kind][1]
    held = np.random.default_rng(3).integers(0, 256, 6 * (row + 3) + 1, np.uint8)
    scattered = held[1:].reshape(6, row + 3)[::2, 1 : row + 1]
    assert_same_bits(dequantize(scattered, kind), dequantize(np.ascontiguousarray(scattered), kind))
    misaligned = held[1 : 1 + 4 * row].reshape(4, row)
    assert_same_bits(dequantize(misaligned, kind), dequantize(misaligned.copy(), kind))


def test_the_result_is_not_the_input() -> None:
    data = np.zeros((1, 8), np.uint8)
    dequantize(data, GGMLType.F32)[:] = 1
    assert not data.any()


def test_q1_0_by_hand() -> None:
    block = np.concatenate([np.array([1.5], np.float16).view(np.uint8), np.array([0b101, 0x80] + [0] * 14, np.uint8)])
    expected = np.full(128, -1.5, np.float32)
    expected[[0, 2, 15]] = 1.5
    assert_same_bits(dequantize(block[None], GGMLType.Q1_0), expected[None])


def test_q2_0_by_hand() -> None:
    block = np.concatenate([np.array([0.5], np.float16).view(np.uint8), np.full(16, 0b11100100, np.uint8)])
    expected = np.tile(np.array([-0.5, 0.0, 0.5, 1.0], np.float32), 16)
    assert_same_bits(dequantize(block[None], GGMLType.Q2_0), expected[None])


@pytest.mark.parametrize("kind", [GGMLType.Q8_1, GGMLType.Q8_K, GGMLType.I32, GGMLType.F64])
def test_types_that_hold_no_weights(kind: GGMLType) -> None:
    with pytest.raises(GGUFError, match=f"numbers of type {kind.name} cannot be turned into float32"):
        dequantize(np.zeros((1, BLOCK[kind][1]), np.uint8), kind)


def test_half_a_block() -> None:
    with pytest.raises(GGUFError, match="rows of 19 bytes are no whole Q4_0 blocks of 18 bytes"):
        dequantize(np.zeros((2, 19), np.uint8), GGMLType.Q4_0)
