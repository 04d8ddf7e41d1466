"""Who else is at work."""

import os
from pathlib import Path

import pytest

from powerinfer_cli.system import cores as system_cores
from solver import others
from solver.others import OtherPrograms


def stat(path: Path, ticks: int) -> Path:
    cores = sorted(others.usable_cores())
    lines = [f"cpu  {ticks * len(cores)} 0 0 0 0 0 0 0 0 0"]
    lines += [f"cpu{core} {ticks} 0 0 {1000 - ticks} 0 0 0 0 0 0" for core in cores]
    path.write_text("\n".join([*lines, "intr 0 0"]) + "\n")
    return path


def test_cores_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores, ticks = len(others.usable_cores()), os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(system_cores, "_STAT", stat(tmp_path / "stat", 0))
    wall, own = iter((10.0, 12.0)), iter((1.0, 2.0))
    monkeypatch.setattr(others.time, "monotonic", lambda: next(wall))
    monkeypatch.setattr(others.time, "process_time", lambda: next(own))
    watched = OtherPrograms.watch()
    stat(tmp_path / "stat", ticks)  # each core was in use for a second, and this program took one
    assert watched.cores() == pytest.approx((cores - 1) / 2)


def test_where_the_system_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_cores, "_STAT", tmp_path / "none")
    assert OtherPrograms.watch().cores() is None


def test_who_else_was_at_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "usable_cores", lambda: {0, 1})
    assert others.busy_warning(None, "costs were measured") is None
    assert others.busy_warning(0.2, "costs were measured") is None
    told = others.busy_warning(1.04, "both models decoded")
    assert told is not None
    assert "other programs used 1.0 of 2 cores while both models decoded" in told
