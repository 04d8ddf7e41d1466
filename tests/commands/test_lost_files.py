"""A model's file that is cut short while it is used: one line and exit code 1, whoever reads what is gone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import powerinfer_cli

BUNDLED = Path(powerinfer_cli.__file__).parent / "bundled" / "storyteller.powerinfer.gguf"

NUMPY = """
gguf = open_model_file(path)
os.truncate(path, 20000)
print(sum(int(tensor.data.sum()) for tensor in gguf.tensors.values()))
"""
KERNELS = """
from powerinfer_cli.runtime import Engine, EngineOptions
engine = Engine.load(open_model_file(path), EngineOptions(n_ctx=64, repack=False, n_threads=2))
engine.prefill([5, 6, 7])
os.truncate(path, 20000)
engine.decode(8)
print("not reached")
"""


@pytest.mark.parametrize("reading", [NUMPY, KERNELS], ids=["numpy", "kernels"])
def test_a_file_that_is_cut_short_ends_the_program_with_a_line(tmp_path: Path, reading: str) -> None:
    path = tmp_path / "a model.gguf"
    shutil.copyfile(BUNDLED, path)
    head = "import os, sys\nfrom pathlib import Path\nfrom powerinfer_cli.opening.model_file import open_model_file\n"
    program = f"{head}path = Path(sys.argv[1])\n{reading}"
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {path}: a part of it")


def test_commands_open_their_models_so() -> None:
    """Whoever opened a model's file another way would end without a word."""
    package = Path(powerinfer_cli.__file__).parent
    for source in (package / "commands").rglob("*.py"):
        assert source.name == "model_file.py" or "open_gguf" not in source.read_text(), source
