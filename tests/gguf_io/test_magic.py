import io
import json
import struct
import zipfile
from pathlib import Path

import pytest

from powerinfer_cli.gguf_io import GGUFError, open_gguf
from tests.gguf_io import raw


def refuse(folder: Path, content: bytes, says: str) -> None:
    with pytest.raises(GGUFError, match=says):
        open_gguf(raw.write(folder, content))


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (0, "this is GGUF version 0; versions 2 and 3 can be read"),
        (1, "this is GGUF version 1, which is no longer in use: convert the model anew"),
        (4, "this is GGUF version 4; versions 2 and 3 can be read"),
        (99, "this is GGUF version 99; versions 2 and 3 can be read"),
        (2**32 - 1, "this is GGUF version 4294967295; versions 2 and 3 can be read"),
        (3 << 24, "big-endian"),
        (2 << 24, "big-endian"),
    ],
)
@pytest.mark.parametrize("magic", [b"GGUF", b"PWRI"])
def test_versions_that_are_not_read(tmp_path: Path, magic: bytes, version: int, says: str) -> None:
    refuse(tmp_path, raw.build(magic=magic, version=version), says)


def zip_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return content.getvalue()


def safetensors() -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (safetensors(), "safetensors"),
        (zip_archive(), "PyTorch checkpoint"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"tjgg\x03\0\0\0", "GGJT"),
        (b"lmgg\x03\0\0\0", "GGML"),
        (b"fmgg\x03\0\0\0", "GGMF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "web page"),
        (b"FUGG\x03\0\0\0", "starts with b'FUGG'"),
        (b"gguf\x03\0\0\0", "starts with b'gguf'"),
        (b"\x1b[2J\x03\0\0\0", r"starts with b'\\x1b\[2J'"),
        (bytes(64), r"starts with b'\\x00"),
    ],
)
def test_other_formats_are_told_apart(tmp_path: Path, content: bytes, says: str) -> None:
    refuse(tmp_path, content, says)


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 15, 16, 23])
def test_cut_within_the_header(tmp_path: Path, length: int) -> None:
    refuse(tmp_path, raw.build()[:length], "cut short")


def test_big_endian_file_of_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = raw.gguf.GGUFWriter(path, "llama", endianess=raw.gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(GGUFError, match="big-endian"):
        open_gguf(path)
