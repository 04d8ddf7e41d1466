"""Signals that end a process, while a file is being written."""

import os
import signal
import sys
from pathlib import Path

import pytest

from powerinfer_cli.commands.shared.termination import tidy_ending
from powerinfer_cli.files import replacing
from powerinfer_cli.system.signals import UNWINDING


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends a process of Windows at once")
@pytest.mark.parametrize("number", [one for one in UNWINDING if one.name in ("SIGTERM", "SIGHUP")])
def test_nothing_half_written_is_left(tmp_path: Path, number: signal.Signals) -> None:
    found = signal.signal(number, signal.SIG_DFL)  # under nohup one is ignored
    try:
        with pytest.raises(SystemExit) as end:
            _write_and_end(tmp_path / "file", number)
        assert end.value.code == 128 + number
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, found)


def _write_and_end(path: Path, number: signal.Signals) -> None:
    with tidy_ending(), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), number)
