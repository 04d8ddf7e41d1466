"""`powerinfer solve` as its tests run it."""

import json
from pathlib import Path
from typing import Any

from tests.helpers.main_cli import powerinfer
from tests.helpers.result import Result

__all__ = ["N_FF", "QUICK", "STORY", "data_of", "solve"]

N_FF = 32
STORY = "Once upon a time there was one fox.\n"
QUICK = ("--force", "--steps", "5", "--rank", "8", "-t", "1")


def solve(path: Path, *flags: str) -> Result:
    return powerinfer("solve", "-m", str(path), *flags)


def data_of(result: Result) -> dict[str, Any]:
    assert result.code == 0, result
    found: dict[str, Any] = json.loads(result.out)
    return found
