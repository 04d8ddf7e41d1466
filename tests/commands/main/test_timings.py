"""What is counted, and from when: the report under a text."""

import subprocess
import sys
import time

import pytest

from powerinfer_cli.commands.main.timings import Timings, seconds_running


def test_the_rate_is_of_tokens_that_took_an_evaluation() -> None:
    timings = Timings()
    timings.generation(0.5, evaluated=False)
    timings.generation(0.25, evaluated=True)
    timings.generation(0.25, evaluated=True)
    assert "generation:          1.00 s,     3 tokens,     4.00 tokens/s" in timings.lines(None, None, None, 0)


def test_nothing_has_no_rate() -> None:
    assert "generation:          0.00 s,     0 tokens" in Timings().lines(None, None, None, 0)


def test_time_counts_from_the_beginning_of_the_process() -> None:
    """Not from the first of our own lines, which comes late where much is imported before."""
    program = (
        "import time\ntime.sleep(0.5)\n"
        "from powerinfer_cli.commands.main.timings import seconds_running\nprint(seconds_running())"
    )
    begin = time.monotonic()
    told = float(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout)
    assert 0.49 < told < time.monotonic() - begin + 0.02


def test_time_before_exec_does_not_count() -> None:
    program = "from powerinfer_cli.commands.main.timings import seconds_running\nprint(seconds_running())"
    command = ["sh", "-c", 'sleep 0.5; exec "$@"', "sh", sys.executable, "-c", program]
    begin = time.monotonic()
    told = float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert 0 <= told < time.monotonic() - begin - 0.49


def test_without_proc_it_counts_from_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", absent)
    assert 0 < seconds_running() < 3600
