"""Importance matrices in both of llama.cpp's formats, whole and broken."""

import struct
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.convert.importance import Sums, read_importance, write_importance
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, write_gguf


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    squares = np.array([[2.0, 4.0], [0.0, 0.0]])
    write_importance(path, {"blk.0.x.weight": Sums(squares, np.array([2, 0]))}, 3, 512, ["a.txt"])
    found = read_importance(path)
    np.testing.assert_array_equal(found.of["blk.0.x.weight"], [[1, 2], [1, 1]])  # 1 where no token came by
    assert (found.n_chunks, found.datasets) == (3, ("a.txt",))


def dat(*entries: tuple[bytes, int, list[float]], tail: bytes = b"") -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        head = struct.pack(f"<i{len(name)}sii", len(name), name, calls, len(values))
        parts.append(head + np.array(values, "<f4").tobytes())
    return b"".join(parts) + tail


def test_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat((b"a.weight", 4, [4.0, 8.0]), tail=struct.pack("<ii4s", 9, 4, b"text")))
    found = read_importance(path)
    np.testing.assert_array_equal(found.of["a.weight"], [[1, 2]])
    assert (found.n_chunks, found.datasets) == (9, ("text",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"\xff\xff\xff\x7f" + bytes(8), "entries at byte 0"),
        (dat((b"a", 1, [1.0]))[:-2], "cut short"),
        (dat((b"a", 1, [-1.0])), "negative or not finite"),
        (dat((b"a", 1, [float("inf")])), "negative or not finite"),
        (dat(), "holds no importance"),
        (struct.pack("<iiq", 1, 1 << 30, 0), "bytes of a name"),
    ],
)
def test_broken(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(PowerInferError, match=reason):
        read_importance(path)


def test_a_model_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensors = [("a.weight", np.ones((2, 2), np.float32), GGMLType.F32)]
    write_gguf(path, arch="llama", metadata={}, tensors=tensors, sparse=False)
    with pytest.raises(PowerInferError, match="is no importance matrix"):
        read_importance(path)
    with pytest.raises(PowerInferError, match="cannot be read"):
        read_importance(tmp_path / "none.gguf")
