"""Kernels compiled for CPUs that are not here: what instructions they are made of."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Instructions for 32 weights in llama.cpp's loops (arch/arm/quants.c of llama-cpp-python 0.3.36, by GCC 12 at -O3).
PEERS_ON_ARM = {"dot_q4_0": 27.5, "dot_q8_0": 18.0, "dot_q4_k": 17.75}


def lines_of(rung: str) -> dict[str, str]:
    """A line for each of these kernels."""
    done = subprocess.run(
        [sys.executable, "scripts/compiled_rungs.py", rung, "--kernel", "^dot_(q4_0|q8_0|q4_k)$"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line for line in done.stdout.splitlines()}


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
