"""How a command ended, and what it owes its user."""

import re
from dataclasses import dataclass

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a failing command owes; its last."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code in (1, 2), self
        assert len(lines) == 1, self
        assert self.err.endswith(lines[0] + "\n"), self
        assert "Traceback" not in self.err
        return lines[0]

    def note(self, pattern: str) -> re.Match[str]:
        """The line on stderr that matches."""
        found = re.search(pattern, self.err, re.MULTILINE)
        assert found is not None, self
        return found
