"""What a command loads before it writes: torch takes 1.4 s and 200 MB, Numba half a second and 70 MB."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, json, os, sys
from pathlib import Path
heavy = ("torch", "numba", "gguf", "huggingface_hub", "highspy", "transformers", "scipy")
seen = Path(os.environ["SEEN"])
atexit.register(lambda: seen.write_text(json.dumps([name for name in heavy if name in sys.modules])))
from powerinfer_cli.cli import run
run()
"""


def start(seen: Path, *args: str) -> subprocess.Popen[str]:
    environment = os.environ | {"SEEN": str(seen)}
    command = [sys.executable, "-c", PROGRAM, *args]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def loaded_by(seen: Path, *args: str) -> list[str]:
    process = start(seen, *args)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    found: list[str] = json.loads(seen.read_text())
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Once upon a time there was a fox. " * 40)
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ("main", "-p", "Once", "-n", "2"),
        ("main", "-p", "Once", "-n", "2", "--grammar", 'root ::= "a"'),
        ("bench", "-p", "8", "-n", "2", "-r", "1"),
        ("perplexity", "-c", "64", "--chunks", "1", "-f"),
    ],
    ids=lambda command: command[0],
)
def test_commands_load_neither_torch_nor_numba(command: tuple[str, ...], text: str, tmp_path: Path) -> None:
    """Once kernels are compiled, on a machine without a GPU; the bundled model has statistics beside it."""
    arguments = (*command, text) if command[-1] == "-f" else command
    first = loaded_by(tmp_path / "first", *arguments)  # compiles what is not compiled
    assert "torch" not in first
    assert not first or loaded_by(tmp_path / "second", *arguments) == []


def test_the_server_loads_neither_torch_nor_numba(tmp_path: Path) -> None:
    """It has no end of Python's at which to tell: what it has mapped into memory does."""
    for _ in range(2):
        process = start(tmp_path / "seen", "server", "--port", "0")
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("model loaded"):
                break
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert "/llvmlite/" in mapped
    assert "/torch/" not in mapped
    assert "/numba/" not in mapped
