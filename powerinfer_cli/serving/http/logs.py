"""One line for each thing that happened, to stderr: plain, or a JSON object. Never a prompt, never a key."""

import json
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from powerinfer_cli.printable import printable
from powerinfer_cli.serving.slots.counters import ServedRequest

__all__ = ["Log"]

SELDOM_S = 10.0
MOST_REPEATED = 1000  # texts that are remembered


class Log:
    """Safe to use from any thread: a line is written at once."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, tasks: bool = False) -> None:
        """tasks: a line for each task of the engine's thread, too."""
        self._json, self._quiet, self._tasks = as_json, quiet, tasks
        self._repeated: dict[str, tuple[float, int]] = {}  # text -> when it was written, how often not since

    @property
    def quiet(self) -> bool:
        """Is nothing written?"""
        return self._quiet

    def note(self, text: str, **values: Any) -> None:
        """What is going on."""
        self._write(self.line(text, **values))

    def seldom(self, text: str) -> None:
        """What may happen often for one reason: a line in ten seconds, which says how many there would have been."""
        now = time.monotonic()
        written, left_out = self._repeated.get(text, (-SELDOM_S, 0))
        if now - written < SELDOM_S:
            self._repeated[text] = written, left_out + 1
            return
        if len(self._repeated) > MOST_REPEATED:
            self._repeated.clear()
        self._repeated[text] = now, 0
        self.note(f"{text} (and {left_out} times before)" if left_out else text)

    def line(self, text: str, **values: Any) -> str:
        """What `note` writes, for somebody else to write; empty where that is nothing."""
        if self._quiet:
            return ""
        return json.dumps({"event": "note", "text": text, **values}) if self._json else printable(text)

    def request(self, values: Mapping[str, Any]) -> None:
        """A request has ended."""
        if self._json:
            self._write(json.dumps({"event": "request", **values}))
            return
        gone = ", client gone" if values.get("gone") else ""
        head = f"{values['method']} {printable(values['path'][:200])} {values['status']} {values['ms']:.1f} ms{gone}"
        if "slot" not in values:
            self._write(head)
            return
        self._write(
            f"{head}, slot {values['slot']}: {values['prompt']} prompt tokens and {values['cached']} cached, "
            f"{values['predicted']} written at {values['tokens_per_s']} tokens/s"
        )

    def served(self, record: ServedRequest) -> None:
        """A task has ended; told only to those who want to know all."""
        if self._tasks:
            self.note("task " + " ".join(f"{name}={_short(value)}" for name, value in asdict(record).items()))

    def failure(self, error: Exception) -> None:
        """What nobody expected: where it happened. Not its message, which may hold what a client has sent."""
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = " < ".join(f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in reversed(frames))
        self.seldom(f"failure: {type(error).__name__} in {where}")

    def _write(self, line: str) -> None:
        if self._quiet:
            return
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self._quiet = True  # nobody reads it: no reason not to serve


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
