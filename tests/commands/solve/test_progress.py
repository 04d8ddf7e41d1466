"""How `powerinfer solve` tells of its work, and how it is interrupted."""

import io
import sys
import time
from pathlib import Path

import pytest

from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.solve.progress import Working
from solver.state import read_state
from tests.commands.solve.running import QUICK, data_of, solve
from tests.helpers.main_cli import PATIENCE, Process
from tests.helpers.placing.placed_model import (
    dense_model,
    write_placed,
)

BAR = "measuring "  # part of a progress bar


def test_ctrl_c_at_any_time_keeps_what_is_done(tmp_path: Path, text: str) -> None:
    path, out, whole = (
        write_placed(tmp_path, statistics=False, model=dense_model("relu")),
        tmp_path / "a",
        tmp_path / "b",
    )
    flags = ("-f", text, "--device-profile", "rtx-3090-ddr5", *QUICK)
    for stage in ("verdict", "activation"):
        with Process("solve", "-m", str(path), *flags, "-o", str(out)) as process:
            deadline = time.monotonic() + PATIENCE
            while stage not in read_state(out).stages and process.alive:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.interrupt()
            result = process.wait()
        assert result.code in (0, 130), result  # 0: it was faster
        assert "Traceback" not in result.err
        assert stage in read_state(out).stages
        assert not list(tmp_path.rglob("*.tmp"))
    for folder in (out, whole):
        assert solve(path, *flags, "-o", str(folder)).code == 0
    assert read_state(out).found("predictor") == read_state(whole).found("predictor")
    assert not (out / ".solver-work").exists()


@pytest.mark.parametrize(("terminal", "term"), [(False, "xterm"), (True, "xterm"), (True, "dumb")])
def test_work_that_tells_nothing_is_told_of_all_the_same(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str
) -> None:
    """In a log a line now and then, on a terminal that can draw one a bar."""
    monkeypatch.setenv("TERM", term)
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", out)
    working = Working(between=0.01)
    with working as events:
        working.schedule.declare({"profile": 100})
        events.progress("profile", 1, 100)
        deadline = time.monotonic() + PATIENCE
        while "left" not in out.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    words = "2 min left" if terminal and term != "dumb" else "% of all, profile 1%, about 2 min left\n"
    assert words in out.getvalue()


def test_at_a_terminal_json_goes_to_the_file_and_progress_does_not(tmp_path: Path) -> None:
    args = ("solve", "-m", str(write_placed(tmp_path)), "--plan-only", "--device", "cpu", "-t", "1")  # measures costs
    with Process(*args, "--json", terminal=True, redirected=(1,)) as process:
        result = process.wait()
    assert data_of(result)["plan"]["machine"]["source"] == "measured"
    assert BAR in result.err


def test_a_bar_is_gone_before_the_report(tmp_path: Path) -> None:
    args = ("solve", "-m", str(write_placed(tmp_path)), "--plan-only", "--device", "cpu", "-t", "1")
    with Process(*args, terminal=True) as process:
        shown = process.wait().out
    _, after = shown.rsplit(BAR, 1)
    assert "\x1b[2K" in after[: after.index("profile: ")]


def test_what_is_written_beside_a_bar_stays_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, out = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", out)
    for progress in (Working(), Loading(print)):
        with progress as events:
            events.progress("compiling", 1, 2)
            print("text")
    assert out.getvalue() == "text\ntext\n"
    assert "compiling" in terminal.getvalue()
