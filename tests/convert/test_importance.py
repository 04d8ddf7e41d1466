"""Importance matrices in both of llama.cpp's formats, whole and broken."""

import struct
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.convert.importance import Sums, read_importance, write_importance
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, WritableValue, write_gguf


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
        (b"", "empty"),
        (b"\1\0\0\0", "cut short"),
        (b"\xff\xff\xff\x7f" + bytes(8), "entries at byte 0"),
        (dat((b"a", 1, [1.0]))[:-2], "cut short"),
        (dat((b"a", 1, [-1.0])), "not 0 to"),
        (dat((b"a", 1, [float("inf")])), "not 0 to"),
        (dat((b"a", 1, [1e25])), "not 0 to"),
        (struct.pack("<iisii", 1, 1, b"a", 1, (1 << 31) - 1), "claims 2147483647 numbers"),
        (dat(), "holds no importance"),
        (struct.pack("<iiq", 1, 1 << 30, 0), "bytes of a name"),
    ],
)
def test_broken(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(PowerInferError, match=reason):
        read_importance(path)


@pytest.mark.parametrize(
    ("sums", "counts", "n_chunks", "reason"),
    [
        (np.ones((1, 4)), [-1], 1, "counts that are negative"),
        (np.ones((1, 4)), [np.nan], 1, "counts that are negative or not finite"),
        (np.full((1, 4), 3e38), [1e-30], 1, "not 0 to"),
        (np.ones((1, 4)), [1, 1, 1], 1, "4 sums and 3 counts"),
        (np.ones((1, 4)), [1], 1 << 63, "chunk_count is 9223372036854775808"),
    ],
)
def test_broken_gguf(tmp_path: Path, sums: np.ndarray, counts: list[float], n_chunks: int, reason: str) -> None:
    path = tmp_path / "imatrix.gguf"
    tensors = [
        ("a.in_sum2", sums.astype(np.float32), GGMLType.F32),
        ("a.counts", np.array(counts, np.float32).reshape(-1, 1), GGMLType.F32),
    ]
    keys: dict[str, WritableValue] = {"general.type": "imatrix", "imatrix.chunk_count": np.uint64(n_chunks)}
    write_gguf(path, arch="imatrix", metadata=keys, tensors=tensors, sparse=False)
    with pytest.raises(PowerInferError, match=reason):
        read_importance(path)


def test_claims_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_importance(path, {"a": Sums(np.ones((1, 4)), np.array([1]))}, 1, 512, ["t"])
    held = path.read_bytes().replace(struct.pack("<QQ", 4, 1), struct.pack("<QQ", 1 << 30, 1))
    start = held.index(b"a.counts") + 8 + 4 + 16 + 4
    path.write_bytes(held[:start] + struct.pack("<Q", 1 << 32) + held[start + 8 :])
    with path.open("r+b") as file:
        file.truncate((1 << 32) + 4096)
    with pytest.raises(PowerInferError, match="claims 1073741824 numbers"):
        read_importance(path)


def test_a_model_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensors = [("a.weight", np.ones((2, 2), np.float32), GGMLType.F32)]
    write_gguf(path, arch="llama", metadata={}, tensors=tensors, sparse=False)
    with pytest.raises(PowerInferError, match="is no importance matrix"):
        read_importance(path)
    with pytest.raises(PowerInferError, match="cannot be opened"):
        read_importance(tmp_path / "none.gguf")
