"""What a download shows of how far it is."""

import pytest

from powerinfer_cli.commands.download import progress


def test_plain_lines_tell_speed_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("powerinfer_cli.commands.download.progress.time.monotonic", lambda: now)
    with progress.Lines() as watch:
        watch.begin(3, 60_000_000, 20_000_000)
        watch.file("w.gguf", 50_000_000, 20_000_000)
        now = 105.0
        watch.at(21_000_000)
        now = 110.0
        watch.at(30_000_000)
        watch.file("activation/activation_0.pt", 1000, 0)
    assert capsys.readouterr().err.splitlines() == [
        "downloading 60 MB in 3 files, 20 MB of it already here",
        "w.gguf: 50 MB, going on from 20 MB",
        "w.gguf: 30 MB of 50 MB (60%), 1 MB/s, 20 s left",
    ]


def test_stderr_that_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(progress.make_watch(), progress.Lines)


def test_who_waits_is_told_of_all_files_together() -> None:
    told: list[tuple[str, int, int]] = []
    with progress.make_watch(lambda *step: told.append(step)) as watch:
        watch.begin(2, 60, 20)
        watch.file("a.gguf", 30, 20)
        watch.at(30)
        watch.file("b.gguf", 30, 0)
        watch.at(15)
    assert told == [(progress.DOWNLOADING, done, 60) for done in (20, 30, 45)]
