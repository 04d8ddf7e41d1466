"""What is wrong with `powerinfer cluster serve` is said in one line, before anything is started."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from powerinfer_cli.commands.cluster.serve import each, tight

NO_RAY = "import sys; sys.modules['ray'] = None; from powerinfer_cli.cli import run; run()"
HAS_RAY = importlib.util.find_spec("ray") is not None


def ended(*words: str, script: str | None = None) -> tuple[int, str]:
    program = ["-m", "powerinfer_cli"] if script is None else ["-c", script]
    command = [sys.executable, *program, "cluster", "serve", *words]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stderr


def test_ray_is_missing() -> None:
    code, line = ended(script=NO_RAY)
    assert code == 1
    assert line.startswith("error: this needs Ray Serve, which is not installed (ray")
    assert line.endswith("): pip install 'powerinfer[cluster]'\n")


@pytest.mark.skipif(not HAS_RAY, reason="the extra `cluster` is not installed")
def test_a_port_in_use_is_told_before_ray_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = ended("--port", str(port))
    assert (code, line) == (1, f"error: cannot listen on 127.0.0.1 port {port}: Address already in use (--host)\n")


@pytest.mark.skipif(not HAS_RAY, reason="the extra `cluster` is not installed")
def test_a_model_that_is_missing_is_told_before_ray_starts(tmp_path: Path) -> None:
    code, line = ended("-m", str(tmp_path / "none.gguf"))
    assert code == 1
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert "none.gguf" in line


def test_help_loads_neither_ray_nor_torch() -> None:
    script = (
        "import sys\nfrom powerinfer_cli.cli import app\n"
        "try:\n    app(['cluster', 'serve', '--help'], prog_name='powerinfer', standalone_mode=False)\n"
        "finally:\n    print([name for name in ('ray', 'torch', 'numba') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == "[]\n"
    assert "--gpus-per-replica" in done.stdout


@pytest.mark.skipif(not HAS_RAY, reason="the extra `cluster` is not installed")
def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        port = free.getsockname()[1]
        code, line = ended("--ray-address", f"127.0.0.1:{port}")
    where = f"--ray-address 127.0.0.1:{port}"
    assert (code, line) == (1, f"error: {where}: no Ray answers there: Connection refused\n")


def test_memory_of_a_machine_is_divided() -> None:
    assert [each(mib, 3) for mib in (8192, 2, 0, -1)] == [2730, 1, 0, -1]
    gib = 1 << 30
    assert tight(3, 2 * gib, 6 * gib) is None
    line = tight(3, 2 * gib, 5 * gib)
    assert line is not None
    assert "3 replicas of a model of 2.0 GiB are 6.0 GiB, and 5.0 GiB of memory are free" in line
