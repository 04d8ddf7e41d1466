"""Writing all or nothing: on a disk that is full, over what is no file."""

import os
from pathlib import Path

import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import check_writable, replacing, same_file, write_torch


def test_what_torch_saves_is_read_back(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.pt") as temporary:
        write_torch(temporary, torch.arange(5))
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True), torch.arange(5))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=r"a\.pt: cannot be written: No space left"), replacing(tmp_path / "a.pt"):
        write_torch(Path("/dev/full"), torch.zeros(1 << 16))
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        pytest.raises(PowerInferError, match="pipe: cannot be written: it is no ordinary file"),
        replacing(pipe) as new,
    ):
        new.write_text("x")
    assert pipe.is_fifo()


def test_a_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "to" / "be" / "made", "")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PowerInferError, match=r"^/proc/none/x: cannot be written: .*: name another$"):
        check_writable(Path("/proc/none/x"), "name another")


def test_one_file_has_many_names(tmp_path: Path) -> None:
    one, link = tmp_path / "one", tmp_path / "link"
    link.symlink_to(one)
    for path in (link, tmp_path / "x" / ".." / "one"):
        assert same_file(path, one)  # that is not there yet
    one.touch()
    (tmp_path / "hard").hardlink_to(one)
    assert same_file(link, tmp_path / "hard")
    assert not same_file(tmp_path / "two", one)
