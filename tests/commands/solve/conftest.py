"""No GPU, nobody's own cache, a text; and what is timed is timed shortly."""

from pathlib import Path

import pytest
import torch

from powerinfer_cli.opening import companions
from powerinfer_cli.opening.planning import plan_files
from solver import comparison
from solver.placing import measure
from solver.verdict import judging, seen, tried_decoding
from tests.commands.solve.running import STORY


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (plan_files, companions):
        monkeypatch.setattr(module, "cache_root", lambda: tmp_path / "cache")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(STORY * 60)
    return str(path)


@pytest.fixture(autouse=True)
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast this machine is does not matter here."""
    monkeypatch.setattr(measure, "LONG_ENOUGH", 0.01)
    for module in (comparison, judging, seen, tried_decoding):
        monkeypatch.setattr(module, "SECONDS", 0.1)
