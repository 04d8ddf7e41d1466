"""Triton's kernels under its interpreter, and compiled. Which of the two is settled when Triton is imported, so each
has a process of its own; they run side by side."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from powerinfer_cli.kernels.device import ops_for

ROOT = Path(__file__).parents[3]
CASES = [str(Path(__file__).with_name(f"triton_{part}cases.py")) for part in ("", "attention_", "recurrent_")]
KERNELS = (
    "matvec chosen_rows dequantize predict values list down total activated add_norm rope_store attend combine join "
    "heads matmul_few expert_values expert_sums convolve delta_rule chunk over_chunks scan"
)
WAIT = 600
TARGETS = {
    "sm_75": ("75", "F16", "Q6_K"),  # Turing, the oldest that Triton knows
    "sm_90": ("90", "--brief", "Q4_0"),
    "gfx1100": ("gfx1100", "--brief", "Q4_0"),  # waves of 32 threads
    "gfx942": ("gfx942", "Q4_0"),  # of 64
}
"""GPUs that are compiled for, and for which types of weights; of each maker's, one in all variants."""

Process = subprocess.Popen[str]


def start(arguments: list[str], **environment: str) -> Process:
    command = [sys.executable, "-m", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """One that interprets, and one that compiles for each target."""
    pytest.importorskip("triton", reason="Triton has wheels for Linux alone")
    cache = str(tmp_path_factory.mktemp("triton"))
    interpreting = start(["pytest", "-q", "-x", "-p", "no:cacheprovider", *CASES], TRITON_INTERPRET="1")
    found = {"interpreter": interpreting}
    for name, words in TARGETS.items():
        found[name] = start(
            ["tests.helpers.kernels.compile_kernels", *words], TRITON_INTERPRET="0", TRITON_CACHE_DIR=cache
        )
    yield found
    for process in found.values():
        process.kill()
        process.communicate()


@pytest.mark.timeout(WAIT + 60)
@pytest.mark.parametrize("which", TARGETS)
def test_kernels_compile_for_a_gpu(processes: dict[str, Process], which: str) -> None:
    """The interpreter takes what the compiler does not."""
    out, errors = processes[which].communicate(timeout=WAIT)
    assert processes[which].returncode == 0, errors[-3000:]
    compiled = [line.split() for line in out.splitlines()]
    assert {name for name, _ in compiled} == {f"_{name}" for name in KERNELS.split()}
    assert max(int(shared) for _, shared in compiled) <= 48 << 10  # what any GPU has


@pytest.mark.timeout(WAIT + 60)
def test_kernels_under_the_interpreter(processes: dict[str, Process]) -> None:
    out, errors = processes["interpreter"].communicate(timeout=WAIT)
    assert processes["interpreter"].returncode == 0, out[-3000:] + errors[-1000:]
    assert " passed" in out


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
