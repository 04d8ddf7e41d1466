"""Changed copies of GGUF files: metadata byte by byte, tensors piece by piece."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import (
    AddedValue,
    GGMLType,
    GGUFFile,
    StreamedTensor,
    open_gguf,
    rewrite_gguf,
    streamed,
    write_gguf,
)

METADATA = {
    "general.alignment": 64,
    "a.small": np.uint8(7),
    "a.wide": np.uint64(8),
    "a.double": np.float64(0.1),
    "a.flag": True,
    "a.words": ["one", "two \u00e9"],
    "a.numbers": np.array([1, 2], np.int16),
    "powerinfer.sparse_threshold": 0.5,
}


@pytest.fixture
def source(tmp_path: Path) -> GGUFFile:
    tensors = [
        ("first", np.arange(12, dtype=np.float32).reshape(3, 4), GGMLType.F32),
        ("second", np.ones((2, 32), np.float32), GGMLType.Q8_0),
    ]
    write_gguf(tmp_path / "source.gguf", arch="llama", metadata=METADATA, tensors=tensors, sparse=True)
    return open_gguf(tmp_path / "source.gguf")


def rewrite(source: GGUFFile, path: Path, **changes: object) -> GGUFFile:
    tensors = [streamed(tensor) for tensor in source.tensors.values()]
    given = {"dropped": (), "added": {}, "tensors": tensors, "sparse": source.sparse} | changes
    rewrite_gguf(source, path, **given)  # type: ignore[arg-type]
    return open_gguf(path)


def test_a_copy_is_the_same(source: GGUFFile, tmp_path: Path) -> None:
    copy = rewrite(source, tmp_path / "copy.gguf")
    assert copy.sparse
    assert copy.version == 3
    assert {key: str(value) for key, value in copy.metadata.items()} == {
        key: str(value) for key, value in source.metadata.items()
    }
    assert isinstance(copy.metadata["a.numbers"], np.ndarray)
    assert copy.metadata["a.numbers"].dtype == np.int16
    for name, tensor in source.tensors.items():
        found = copy.tensors[name]
        assert (found.type, found.shape, found.data.tobytes()) == (tensor.type, tensor.shape, tensor.data.tobytes())


def test_keys_keep_their_types_to_the_byte(source: GGUFFile, tmp_path: Path) -> None:
    rewrite(source, tmp_path / "copy.gguf")
    raw = (tmp_path / "copy.gguf").read_bytes()
    assert b"a.wide" + (10).to_bytes(4, "little") + (8).to_bytes(8, "little") in raw
    assert b"a.small" + bytes(4) + b"\x07" in raw


def test_keys_are_dropped_added_and_replaced(source: GGUFFile, tmp_path: Path) -> None:
    added: dict[str, AddedValue] = {
        "llama.hidden_activation": "relu",
        "a.flag": 2.5,
        "a.numbers": np.array([3, -7], np.int32),
    }
    copy = rewrite(source, tmp_path / "copy.gguf", dropped=("powerinfer.",), added=added, sparse=False)
    assert not copy.sparse
    assert "powerinfer.sparse_threshold" not in copy.metadata
    assert copy.metadata["llama.hidden_activation"] == "relu"
    assert copy.metadata["a.flag"] == 2.5
    assert copy.get("a.numbers", list) == [3, -7]
    assert copy.metadata["a.small"] == 7


def test_pieces_are_joined_and_counted(source: GGUFFile, tmp_path: Path) -> None:
    parts = [np.full(4 * n, n, np.uint8) for n in (1, 2, 3)]
    tensor = StreamedTensor("new", GGMLType.F32, (2, 3), lambda: iter(parts))
    seen: list[tuple[int, int]] = []
    copy = rewrite(source, tmp_path / "copy.gguf", tensors=[tensor], on_bytes=lambda *done: seen.append(done))
    assert copy.tensors["new"].data.tobytes() == b"".join(part.tobytes() for part in parts)
    assert seen == [(4, 24), (12, 24), (24, 24)]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([StreamedTensor("t", GGMLType.F32, (1,), lambda: [np.zeros(8, np.uint8)])], "came with 8 bytes"),
        ([StreamedTensor("t", GGMLType.Q8_0, (2, 31), list)], "no rows of whole Q8_0 blocks"),
        ([StreamedTensor("t" * 64, GGMLType.F32, (1,), list)], "longer than 63 bytes"),
        ([StreamedTensor("t", GGMLType.F32, (1,), list)] * 2, "a tensor twice"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    source: GGUFFile, tmp_path: Path, tensors: list[StreamedTensor], message: str
) -> None:
    target = tmp_path / "copy.gguf"
    target.write_text("old")
    with pytest.raises(PowerInferError, match=message):
        rewrite(source, target, tensors=tensors)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.gguf", "source.gguf"]


def test_a_full_disk_is_one_line(source: GGUFFile, tmp_path: Path) -> None:
    def full() -> list[np.ndarray]:
        raise OSError(28, "No space left on device")

    with pytest.raises(PowerInferError, match=r"copy.gguf: cannot be written: No space left on device"):
        rewrite(source, tmp_path / "copy.gguf", tensors=[StreamedTensor("t", GGMLType.F32, (1,), full)])


def test_the_gguf_package_reads_the_copy(source: GGUFFile, tmp_path: Path) -> None:
    import gguf

    rewrite(source, tmp_path / "copy.gguf", sparse=False)
    found = gguf.GGUFReader(tmp_path / "copy.gguf")
    assert [tensor.name for tensor in found.tensors] == ["first", "second"]
    assert found.tensors[0].data.tolist() == np.arange(12).reshape(3, 4).tolist()
