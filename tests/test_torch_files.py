"""Vectors that torch has saved, read without it: the same numbers, and nothing that is not exactly that."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.torch_files import plain_vector

MOST = 1 << 20


def saved(path: Path, value: object, **how: object) -> Path:
    torch.save(value, path, **how)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("n", [0, 1, 7, 300, 70_000])
@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.uint8]
)
def test_vectors_are_what_torch_reads(tmp_path: Path, n: int, kind: torch.dtype) -> None:
    path = saved(tmp_path / "a.pt", torch.arange(n).remainder(200).to(kind))
    found = plain_vector(path, MOST)
    assert found is not None
    expected = torch.load(path, weights_only=True).numpy()
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, 3),
        torch.tensor(1.0),
        torch.arange(6)[1:],
        torch.arange(6)[:3],
        torch.arange(6)[::2],
        torch.tensor([1.0]).expand(1 << 40),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, requires_grad=True),
        {"a": torch.ones(3)},
        [torch.ones(3)],
        "text",
    ],
    ids=str,
)
def test_everything_else_is_left_to_torch(tmp_path: Path, value: object) -> None:
    assert plain_vector(saved(tmp_path / "a.pt", value), MOST) is None


def test_old_and_large_and_absent_files_are_left_to_torch(tmp_path: Path) -> None:
    assert plain_vector(saved(tmp_path / "a.pt", torch.ones(3), _use_new_zipfile_serialization=False), MOST) is None
    assert plain_vector(saved(tmp_path / "b.pt", torch.ones(1000)), 4000) is None
    assert plain_vector(tmp_path / "none.pt", MOST) is None


def changed(path: Path, name: str, old: bytes, new: bytes) -> Path:
    """The same archive with one part changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data.replace(old, new) if part.endswith(name) else data)
    return path


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("data.pkl", b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
        ("data.pkl", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n"),
        ("data.pkl", b"FloatStorage", b"LostsStorage"),
        ("data.pkl", b"cpu", b"gpu"),
        ("data.pkl", b"K\x03", b"K\x04"),
        ("data.pkl", b".", b""),
        ("data/0", b"\x00\x00\x80?", b""),
        ("byteorder", b"little", b"big"),
    ],
)
def test_changed_files_are_left_to_torch(tmp_path: Path, name: str, old: bytes, new: bytes) -> None:
    path = saved(tmp_path / "a.pt", torch.ones(3))
    assert plain_vector(path, MOST) is not None
    assert plain_vector(changed(path, name, old, new), MOST) is None


def test_compressed_files_are_left_to_torch(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.ones(3))
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    assert plain_vector(path, MOST) is None
