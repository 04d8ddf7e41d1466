"""How far `quantize` and `imatrix` are: a bar, or lines where none can be drawn."""

import io
import sys

import pytest

from powerinfer_cli.commands.shared import work_progress
from powerinfer_cli.commands.shared.work_progress import WorkProgress


@pytest.mark.parametrize(("term", "bar"), [("xterm", True), ("dumb", False)])
def test_a_bar_or_lines(monkeypatch: pytest.MonkeyPatch, term: str, bar: bool) -> None:
    out, now = io.StringIO(), iter([0.0, 0.0, 100.0, 200.0, 201.0])
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(work_progress, "monotonic", lambda: next(now))
    with WorkProgress("quantizing", in_bytes=False) as progress:
        for done in (1, 2, 3):
            progress.tell(done, 4)
    lines = "quantizing: 25%, about 5 min left\nquantizing: 50%, about 3 min left\n"
    assert (out.getvalue() == lines) is not bar
    assert ("quantizing" in out.getvalue() and "\x1b[" in out.getvalue()) is bar
