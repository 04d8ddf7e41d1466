"""Writing what torch saves, on a disk that is full."""

from pathlib import Path

import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import replacing, write_torch


def test_what_torch_saves_is_read_back(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.pt") as temporary:
        write_torch(temporary, torch.arange(5))
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True), torch.arange(5))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=r"a\.pt: cannot be written: No space left"), replacing(tmp_path / "a.pt"):
        write_torch(Path("/dev/full"), torch.zeros(1 << 16))
    assert not list(tmp_path.iterdir())
