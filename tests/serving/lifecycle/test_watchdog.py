"""The end of a server that cannot end itself."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from powerinfer_cli.serving import running
from tests.helpers.interrupts import hangup_counts

# A search that takes for ever, and holds the interpreter's lock all the while: no handler in Python runs again.
SERVER = """
import re, sys
from powerinfer_cli.serving import lifecycle, running
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.sockets import bind
from powerinfer_cli.serving.options import ServerOptions

def load(watch):
    print("hogging", file=sys.stderr, flush=True)
    re.match("(a+)+$", "a" * 60 + "b")

running.FORCED_S = float(sys.argv[1])
lifecycle.serve(ServerOptions(), bind(["127.0.0.1"], 0), load, Log())
"""
LINE = "the server was told to end, and is ended now: it does not do so itself\n"


@contextmanager
def hogged(seconds: float, *before: str) -> Iterator["subprocess.Popen[str]"]:
    command = [*before, sys.executable, "-c", SERVER, str(seconds)]
    root = Path(__file__).parents[2]
    with hangup_counts():
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root)
    with started as process:
        assert process.stderr is not None
        try:
            while (line := process.stderr.readline()) != "hogging\n":
                assert line
            time.sleep(0.2)
            yield process
        finally:
            process.kill()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its code, and the last line that it wrote."""
    assert process.stderr is not None
    return process.wait(30), process.stderr.read().splitlines(keepends=True)[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_whatever_holds_the_lock(number: signal.Signals) -> None:
    with hogged(0.5) as process:
        process.send_signal(number)
        assert ended(process) == (1, LINE)


def test_a_second_signal_ends_it_soon() -> None:
    with hogged(600) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (1, LINE)


def test_nohup_is_honoured_and_it_ends_all_the_same() -> None:
    with hogged(0.5, "nohup") as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (-signal.SIGKILL, LINE)


def test_the_last_end_comes_within_five_seconds_and_after_all_others() -> None:
    assert running.FINISHING_S + running.CLOSING_S + running.STOPPING_S <= running.LATEST_S
    assert running.LATEST_S < running.FORCED_S < 4.7
