"""Kernels compiled for CPUs that are not here: what instructions they are made of."""

import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Instructions for 32 weights in llama.cpp's loops (arch/arm/quants.c of llama-cpp-python 0.3.36, by GCC 12 at -O3).
PEERS_ON_ARM = {"dot_q4_0": 27.5, "dot_q8_0": 18.0, "dot_q4_k": 17.75}


def lines_of(rung: str, formats: str = "q4_0|q8_0|q4_k") -> dict[str, str]:
    """A line for each of these kernels."""
    done = subprocess.run(
        [sys.executable, "scripts/compiled_rungs.py", rung, "--kernel", f"^dot_({formats})$"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line for line in done.stdout.splitlines()}


@pytest.mark.parametrize(("rung", "cpu"), [("neon", "cortex-a76"), ("avxvnni", "alderlake")])
def test_kernels_are_for_the_cpu_that_is_pretended(rung: str, cpu: str) -> None:
    """Also where its name decides: how far ahead memory is asked for is this machine's matter alone."""
    program = (
        f"from scripts.compiled_rungs import pretend\npretend({rung!r})\n"
        "import llvmlite.binding as llvm\nfrom powerinfer_cli.kernels.jit.rung import HOST_CPU\n"
        "from powerinfer_cli.kernels.formats.whole import _NEAR_OF_ONE\n"
        "print(HOST_CPU, _NEAR_OF_ONE, llvm.get_host_cpu_name())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.stdout.split() == [cpu, "8192", llvmlite.binding.get_host_cpu_name()], done.stderr


def per_block(line: str) -> float:
    found = re.search(r"([\d.]+) / 32 weights", line)
    assert found
    return float(found[1])


def test_arm_multiplies_bytes_four_at_a_time() -> None:
    lines = lines_of("neon")
    assert lines.keys() == PEERS_ON_ARM.keys()
    for name, line in lines.items():
        assert per_block(line) < PEERS_ON_ARM[name]
        assert "no spills" in line
        assert int(line.split()[2]) == 32, "of 16 weights each: a chunk has 512"
        assert re.search(r" 128x\d", line)


def test_arm_widens_floats_of_16_bits_and_multiplies_them_in_32() -> None:
    """32 weights: four vectors of theirs, eight of the input's, eight widened, eight products, and a loop's end."""
    lines = lines_of("neon", "f16|bf16")
    assert lines.keys() == {"dot_f16", "dot_bf16"}
    for line in lines.values():
        assert per_block(line) <= 27
        assert "no spills" in line


def test_arm_multiplies_matrices_of_bytes() -> None:
    """Tiles of prompts: half as many products as of `sdot`, whose loops take 5.3 to 9.9 instructions for 32 weights."""
    done = subprocess.run(
        [sys.executable, "scripts/checks/check_arm_tiles.py", "--count", "i8mm"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    most = {"6_32_0": 3.5, "6_32_1": 4.5, "6_16_0": 5.5, "6_16_1": 7.5}
    few = {name.replace("6", "2", 1): count for name, count in most.items()}
    assert len(lines) == len(most | few)
    for name, count in (most | few).items():
        (line,) = (one for one in lines if f" tile_{name} " in one)
        assert per_block(line) <= count
        assert re.search(rf"smmla +{192 if name[0] == '6' else 64} .*no spills", line), "of 32 weights each"


@pytest.mark.parametrize("name", PEERS_ON_ARM)
def test_avx_vnni_takes_fewer_instructions_than_avx2(name: str, x86: tuple[dict[str, str], dict[str, str]]) -> None:
    vnni, avx2 = (lines[name] for lines in x86)
    assert per_block(vnni) < per_block(avx2)
    assert "no spills" in vnni
    assert int(vnni.split()[2]) == 16, "of 32 weights each"


@pytest.fixture(scope="module")
def x86() -> tuple[dict[str, str], dict[str, str]]:
    """Of AVX-VNNI, of AVX2."""
    return lines_of("avxvnni"), lines_of("avx2")
