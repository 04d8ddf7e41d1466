"""Arrays in files that others may have made: as many bytes as there are, and no more."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.number_files import load_arrays

MOST = 1 << 20


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def load(path: Path) -> np.ndarray:
    return load_arrays(path, ["a"], MOST, "a thing")["a"]


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array("x"), np.ones(0)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_as_numpy_reads_them(tmp_path: Path, array: np.ndarray, save: object) -> None:
    assert callable(save)
    save(tmp_path / "f.npz", a=array, b=1)
    found = load(tmp_path / "f.npz")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert found.flags.writeable


@pytest.mark.parametrize("claim", [b"(1000000000000,)", b"(1,)            ", b"(-1,)           "])
def test_a_header_that_claims_another_size_allocates_nothing(tmp_path: Path, claim: bytes) -> None:
    data = npy(np.arange(10, dtype=np.int64))
    start = data.index(b"(10,)")
    header_end = data.index(b"\n")
    padded = (data[:start] + claim + data[start + 5 : header_end].rstrip()).ljust(header_end) + data[header_end:]
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("a.npy", padded)
    with pytest.raises(PowerInferError, match=r"f\.npz: not a thing \(ValueError\)"):
        load(tmp_path / "f.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_limit_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "f.npz", "w", method) as archive:
        archive.writestr("a.npy", npy(np.zeros(1000)))
    with pytest.raises(PowerInferError, match="not a thing"):
        load(tmp_path / "f.npz")


def test_what_inflates_to_more_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory says 1000 bytes; the data would be 64 MiB."""
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(64 << 20))
    said = (64 << 20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(said, (1000).to_bytes(4, "little")))
    largest = 0
    inflate = zipfile.ZipExtFile._read1  # type: ignore[attr-defined]

    def seen(self: zipfile.ZipExtFile, n: int) -> bytes:
        nonlocal largest
        largest = max(largest, n)
        return bytes(inflate(self, n))

    monkeypatch.setattr(zipfile.ZipExtFile, "_read1", seen)
    with pytest.raises(PowerInferError, match="not a thing"):
        load(path)
    assert 0 < largest <= 4096


def test_too_large_and_absent(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", b=np.zeros(MOST // 8 + 1))
    with pytest.raises(PowerInferError, match="not a thing"):
        load(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", b=1)
    with pytest.raises(PowerInferError, match=r"not a thing \(KeyError\)"):
        load(tmp_path / "f.npz")
    with pytest.raises(PowerInferError, match=r"none\.npz: not a thing \(FileNotFoundError\)"):
        load(tmp_path / "none.npz")
