"""Arrays by name: as bytes and back, and what is none of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.cluster.named import packed, unpacked
from powerinfer_cli.cluster.wires import Lost

ARRAYS = {
    "0.k": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
    "0.k_scales": np.zeros((2, 0), np.float16),
    "12": np.linspace(0, 1, 5, dtype=np.float32),
    "3.v": np.arange(-3, 3, dtype=np.int8)[::2],
}
BYTES = b"".join(bytes(part) for part in packed(ARRAYS))


def test_back_again() -> None:
    found = unpacked(BYTES)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_cut_anywhere() -> None:
    for n in range(len(BYTES)):
        with pytest.raises(Lost):
            unpacked(BYTES[:n])


@given(st.binary(max_size=200))
def test_any_bytes(sent: bytes) -> None:
    try:
        found = unpacked(sent)
    except Lost:
        return
    assert sum(array.nbytes for array in found.values()) <= len(sent)


@given(st.integers(0, 60), st.integers(0, 255))
def test_one_byte_changed(place: int, value: int) -> None:
    changed = bytearray(BYTES)
    changed[place] = value
    try:
        found = unpacked(changed)
    except Lost:
        return
    assert sum(array.nbytes for array in found.values()) <= len(BYTES)
