"""The tests of Triton's kernels under its interpreter, which is chosen when Triton is imported: in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from powerinfer_cli.kernels.device import ops_for

CASES = Path(__file__).with_name("triton_cases.py")


@pytest.mark.timeout(700)
def test_kernels_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_the_cpu_has_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert ops_for("cpu").name == "torch"
    assert ops_for(torch.device("cpu")).name == "torch"


def test_triton_is_imported_only_where_it_runs() -> None:
    code = (
        "import sys; from powerinfer_cli.kernels.device import ops_for; ops_for('cpu'); print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "False"
