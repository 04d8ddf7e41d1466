"""What `powerinfer solve` does not do, in one line: bad flags, places that take nothing, files of other models."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import solver.comparison
import solver.predictor.training
import solver.run
import solver.stages
from powerinfer_cli import files
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.opening.companions import find_companions
from powerinfer_cli.placement import gpuidx_path
from tests.commands.solve.running import N_FF, QUICK, STORY, solve
from tests.helpers.placing.placed_model import (
    N_LAYER,
    dense_model,
    write_placed,
)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--vram-budget", "-1"], 2, "must be a number from 0 to 1048576"),
        (["--vram-budget", "nan"], 2, "must be a number from 0 to 1048576"),
        (["--vram-budget", "13", "--device-profile", "rtx-3060-12gb-ddr4"], 2, "is more than GPU 0 has"),
        (["--device-profile", "abacus"], 1, "abacus: cannot read the device profile"),
        (["--plan-only", "--train-only"], 2, "exclude each other"),
        (["--recall", "1"], 2, "--recall must be between 0 and 1"),
        (["--density", "0"], 2, "--density must be above 0"),
        (["--density", "0.5", "--max-quality-loss", "0.1"], 2, "exclude each other"),
        (["--merge", "x.gguf"], 2, "has predictors already"),
        (["--down-type", "same"], 2, "give that, too"),
        (
            ["--merge", "x.gguf", "--down-type", "q7"],
            2,
            "--down-type q7: choose from auto, same, measured, f32, f16, q4_0",
        ),
        (["--no-predictors"], 2, "give that, too"),
        (["--no-predictors", "--merge", "x.gguf", "--profile-only"], 2, "goes with no other stage"),
        (["--no-predictors", "--merge", "x.gguf", "--down-type", "measured"], 2, "needs a text"),
        (["-f", "absent.txt"], 1, "absent.txt: cannot read"),
        (["--profile-only", "--anew", "-f", "{short}"], 1, "but one chunk has 128: give a longer text"),
        (["--plan-only", "--vram-budget", "1", "-o", "{short}/x"], 1, "{short}/x"),
        (["--plan-only", "--vram-budget", "1", "-o", "{short}"], 2, "is a file: give a folder"),
        (["--plan-only", "--vram-budget", "1", "--predictor-path", "{short}"], 1, "cannot read the predictors"),
        (["--plan-only", "--vram-budget", "1", "--report", "{short}/r.html"], 1, "r.html: cannot be written"),
    ],
)
def test_what_cannot_be(tmp_path: Path, flags: list[str], code: int, says: str) -> None:
    path, short = write_placed(tmp_path), tmp_path / "short.txt"
    short.write_text(STORY)
    result = solve(path, *(flag.format(short=short) for flag in flags), "-t", "1")
    assert says.format(short=short) in result.error
    assert result.code == code
    assert not [p for p in tmp_path.rglob("*") if p.suffix in {".tmp", ".partial"}]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a model is run."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(solver.stages.Engine, "load", work)


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard", "by another way"])
def test_nothing_is_merged_onto_its_own_source(tmp_path: Path, text: str, no_work: None, link: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    before, other = path.read_bytes(), tmp_path / "other.gguf"
    if link == "symbolic":
        other.symlink_to(path)
    elif link == "hard":
        other.hardlink_to(path)
    else:
        other = path if link == "itself" else tmp_path / ".." / tmp_path.name / path.name
    result = solve(path, "-f", text, "--merge", str(other), *QUICK)
    assert f"--merge {other} would overwrite {path}, which is read" in result.error
    assert result.code == 2
    assert path.read_bytes() == before
    assert not (tmp_path / "activation").exists()


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--report", "{text}"], 2, "--report {text} would overwrite {text}, which is read"),
        (["--report", "{tmp}/one", "--merge", "{tmp}/one"], 2, "--merge and --report are both {tmp}/one: give two"),
        (["--report", "{tmp}"], 2, "--report {tmp} is a folder: name a file"),
        (["--merge", "/dev/null"], 2, "--merge /dev/null is no ordinary file"),
        (["--merge", "{tmp}/none/m.gguf"], 1, "cannot be written: there is no folder {tmp}/none"),
        (["--merge", "/proc/m.gguf"], 1, "/proc: cannot be written: "),
        (["--report", "/proc/r.html"], 1, "name another place with --report"),
        (["-o", "/proc/none"], 1, "name another place with -o"),
        (["-o", "/proc/none", "--profile-only"], 1, "name another place with -o"),
        (["-o", "{text}/below"], 1, "{text}/below: cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_written_is_found_out_first(
    tmp_path: Path, text: str, no_work: None, flags: list[str], code: int, says: str
) -> None:
    names = {"text": text, "tmp": str(tmp_path)}
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    before = sorted(tmp_path.rglob("*"))
    result = solve(path, "-f", text, *(flag.format(**names) for flag in flags), *QUICK)
    assert says.format(**names) in result.error
    assert result.code == code
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_in_a_folder_that_takes_nothing(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made goes to the user's cache folder, and is found there."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = write_placed(folder, statistics=False)
    real = files.tempfile.TemporaryFile

    def refused(dir: Path) -> Any:  # noqa: A002  # as the replaced function names it
        if dir == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(dir=dir)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    result = solve(path, "-f", text, "--profile-only", "-t", "1")
    assert result.code == 0, result
    result.note(f"^{folder} takes no files: what is made goes to {tmp_path}/cache/solved/")
    assert list(folder.iterdir()) == [path]
    gguf = open_gguf(path)
    found = find_companions(gguf, load_model(gguf), None, print).statistics
    assert found is not None
    assert found.tokens


def test_a_folder_that_was_given_takes_nothing(
    tmp_path: Path, text: str, no_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))

    def refused(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    out = tmp_path / "out"
    error = solve(path, "-f", text, "-o", str(out), *QUICK).error
    assert f"{out}: cannot be written: Permission denied: name another place with -o" in error


class Trap:
    """A pickle that would leave a file behind, if anybody executed it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["other sizes", "other layers", "a pickle"])
def test_statistics_of_another_model(tmp_path: Path, text: str, damage: str) -> None:
    path, trap = write_placed(tmp_path), tmp_path / "trap"
    file = tmp_path / "activation" / "activation_1.pt"
    if damage == "other sizes":
        torch.save(torch.ones(N_FF + 1), file)
    elif damage == "other layers":
        torch.save(torch.ones(N_FF), file.with_name("activation_2.pt"))
    else:
        torch.save(Trap(trap), file)
    error = solve(path, "--plan-only", "--vram-budget", "1").error
    assert "activation" in error
    assert not trap.exists()
    assert not gpuidx_path(path).exists()


def test_a_predictor_of_the_wrong_shape(tmp_path: Path) -> None:
    path, folder = write_placed(tmp_path, model=dense_model("relu")), tmp_path / "predictor"
    folder.mkdir()
    for layer in range(N_LAYER):
        torch.save({"fc1.weight": torch.ones(4, 8), "fc2.weight": torch.ones(N_FF, 4)}, folder / f"model_{layer}.pt")
    error = solve(path, "--plan-only", "--vram-budget", "1").error
    assert "a predictor of another model" in error
