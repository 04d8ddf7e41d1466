"""What the solver does not do yet."""

from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.merge import merge
from solver.stages import SolverModel
from tests.helpers.families import tiny_family


def test_the_solver_says_that_it_is_for_others(tmp_path: Path) -> None:
    gguf = open_gguf(tiny_family("qwen3moe").file.write(tmp_path / "m.gguf"))
    with pytest.raises(PowerInferError, match="solve is for models without experts"):
        SolverModel(gguf, EngineOptions(), LoadEvents())
    with pytest.raises(PowerInferError, match="has experts, whose down matrices"):
        merge(gguf, None, tmp_path / "merged.gguf", LoadEvents())
