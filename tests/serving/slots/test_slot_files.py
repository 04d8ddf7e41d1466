"""Files of saved slots: what comes back, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.slots.slot_files import MAGIC, read_slot, write_slot

ARRAYS = {
    "0.k": np.arange(24, dtype=np.float16).reshape(3, 4, 2),
    "0.v": np.arange(24, dtype=np.int8).reshape(3, 8)[:, ::2],
    "empty": np.empty((0, 3), np.float32),
}


def write(path: Path) -> int:
    return write_slot(path, "model", [5, 6, 7], ARRAYS)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    n_bytes = write(path)
    saved = read_slot(path, "model", n_ctx=3, n_vocab=8)
    assert (saved.ids, saved.n_bytes, path.stat().st_size) == ([5, 6, 7], n_bytes, n_bytes)
    assert saved.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert saved.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(saved.arrays[name], array)
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 10_000)
    write(path)
    assert read_slot(path, "model", 3, 8).ids == [5, 6, 7]


@pytest.mark.parametrize(("model", "n_ctx", "n_vocab"), [("other", 3, 8), ("model", 2, 8), ("model", 3, 7)])
def test_what_does_not_fit_is_refused(tmp_path: Path, model: str, n_ctx: int, n_vocab: int) -> None:
    write(tmp_path / "a.bin")
    with pytest.raises(PowerInferError):
        read_slot(tmp_path / "a.bin", model, n_ctx, n_vocab)


def with_header(**changes: object) -> bytes:
    header = {"model": "model", "n_tokens": 1, "arrays": [{"name": "k", "type": "int8", "shape": [2]}]} | changes
    text = json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + bytes(4) + bytes(2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        MAGIC,
        MAGIC + b"\xff\xff\xff\xff{}",
        MAGIC + b"\x02\x00\x00\x00[]",
        MAGIC + b"\x05\x00\x00\x00[[[[[",
        with_header(n_tokens=-1),
        with_header(n_tokens="1"),
        with_header(n_tokens=2),
        with_header(arrays=3),
        with_header(arrays=[{"name": "k", "type": "object", "shape": [2]}]),
        with_header(arrays=[{"name": "k", "type": ["int8"], "shape": [2]}]),
        with_header(arrays=[{"name": "k", "type": "int8", "shape": [2**39, 2**39]}]),
        with_header(arrays=[{"name": "k", "type": "int8", "shape": [-1, -2]}]),
        with_header(arrays=[{"name": 5, "type": "int8", "shape": [2]}]),
        with_header(arrays=[{"name": "9" * 5000, "type": "int8", "shape": [2]}]),
        with_header(arrays=[{"name": ["k"], "type": "int8", "shape": [2]}]),
        with_header(arrays=[{"name": "k", "type": "int8", "shape": [1]}] * 2),
        with_header(arrays=[{"name": "k", "type": "float16", "shape": [1]}])[:-2] + b"\xff\x7f",
        with_header(arrays=[{"name": "k", "type": "float16", "shape": [1]}])[:-2] + b"\x00\x7c",
        with_header()[:-1],
        with_header() + b"x",
        with_header()[:-6] + b"\xff" * 6,
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert read_file(tmp_path, with_header()) == [0]
    with pytest.raises(PowerInferError):
        read_file(tmp_path, content)


def read_file(folder: Path, content: bytes) -> list[int]:
    path = folder / "a.bin"
    path.write_bytes(content)
    return read_slot(path, "model", 100, 100).ids


def test_every_cut_and_every_changed_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = with_header()
    for i in range(len(whole)):
        with pytest.raises(PowerInferError):
            read_file(tmp_path, whole[:i])
        for value in (0x00, 0xFF):
            try:
                read_file(tmp_path, whole[:i] + bytes([value]) + whole[i + 1 :])
            except PowerInferError:
                continue


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(PowerInferError, match="regular file"):
        read_slot(path, "model", 1, 1)


def test_no_such_file_and_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="No such file"):
        read_slot(tmp_path / "none", "model", 1, 1)
    with pytest.raises(PowerInferError, match="No such file"):
        write(tmp_path / "none" / "a.bin")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PowerInferError):
        write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
