"""Files are written all or nothing."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing


def write_half(path: Path, error: BaseException) -> None:
    with replacing(path) as new:
        new.write_text("half")
        raise error


def write_all(paths: list[Path], error: BaseException) -> None:
    with ExitStack() as whole:
        for path in paths:
            whole.enter_context(replacing(path)).write_text("new")
        raise error


@pytest.mark.parametrize("durable", [False, True])
def test_a_new_file_takes_the_old_ones_place(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path, durable=durable) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(28, "No space left"), PowerInferError), (KeyboardInterrupt("stop"), KeyboardInterrupt)],
)
def test_the_old_file_survives_whatever_happens(
    tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(expected, match=r"file: cannot be written: No space left|stop"):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_change_together_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text("old")
    with pytest.raises(PowerInferError, match="cannot be written"):
        write_all(paths, OSError(28, "No space left on device"))
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["old", "old"]


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PowerInferError, match=r"file/folder: cannot be made a folder: "):
        make_folder(tmp_path / "file" / "folder")
