"""Kernels compiled here for an emulated ARM machine."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from scripts.compiled_rungs import pretend
pretend("i8mm", "neon")
from scripts.checks.arm_kernels import compiled, kernels_by_name
kernels = kernels_by_name()
print("dot_q4_0" in kernels)
sys.stdout.flush()
sys.stdout.buffer.write(compiled(kernels["test_quantise"], "neoverse-n1", "+neon,+dotprod"))
"""
ELF, AARCH64 = b"\x7fELF", (183).to_bytes(2, "little")


def test_kernels_of_tests_are_among_them() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, check=False, timeout=110)
    known, _, code = done.stdout.partition(b"\n")
    assert known == b"True", done.stderr.decode()
    assert (code[:4], code[18:20]) == (ELF, AARCH64)
    assert b"test_quantise" in code
