#!/usr/bin/env python3
"""Tiles of prompts' products as ARM's rungs have them (sdot, smmla): instructions, and results under emulation.

    python scripts/checks/check_arm_tiles.py

Needs Debian's qemu-user-static and gcc-aarch64-linux-gnu; `--count RUNG` tells instructions alone and needs neither.
Each tile of 6 or 2 tokens and 32 rows is computed by the rung's own code and by plain loops (arm_tiles.c) from numbers
drawn at random; both rungs must agree to the bit. Takes seconds, where scripts/check_arm takes hours.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from llvmlite import ir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.compiled_rungs import MACHINES, optimised, pretend, read, target_of

RUNGS = ("neon", "i8mm")
KINDS = ((32, False), (32, True), (16, False), (16, True))  # columns that share a scale, are there minima


class _Context:
    """What tiles ask of Numba."""

    def get_dummy_value(self) -> None:
        """Of what returns nothing."""


def _function(module: ir.Module, name: str, intrinsic: Any, n: int) -> None:
    """An intrinsic of n numbers, as a function."""
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * n)
    function = ir.Function(module, kind, name)
    builder = ir.IRBuilder(function.append_basic_block())
    _, codegen = intrinsic._defn(*[None] * (n + 1))
    codegen(_Context(), builder, None, function.args)
    builder.ret_void()


def compiled(rung: str) -> tuple[bytes, str]:
    """Machine code and assembly of a rung's tiles. Once in a process."""
    machine = pretend(rung)
    from powerinfer_cli.kernels.simd.dots import pair_columns
    from powerinfer_cli.kernels.simd.panels import multiply

    module = ir.Module()
    for tokens in (6, 2):
        for group, has_min in KINDS:
            _function(module, f"tile_{tokens}_{group}_{int(has_min)}", multiply(tokens, group, has_min, 8), 6)
    if rung == "i8mm":
        _function(module, "pair_columns", pair_columns, 3)
    target = target_of(machine)
    made = optimised(str(module), machine.triple, target)
    return target.emit_object(made), target.emit_assembly(made)


def count(rung: str, assembly: str) -> bool:
    """A line for each tile; whether none spills."""
    good = True
    for part in re.split(r"\n(?=\w+:)", assembly):
        name = part.partition(":")[0]
        if name.startswith("tile"):
            seen = read(part, MACHINES[rung])
            good &= not seen.spills
            told = f"{seen.product} {seen.products:>4} {seen.per_block:5.2f} / 32 weights"
            print(f"{rung} {name:<12} {told} {f'SPILLS {seen.spills}' if seen.spills else 'no spills'}", flush=True)
    return good


def emulated(rung: str, code: bytes) -> str:
    """What the driver tells. Raises CalledProcessError: a tile is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        tiles, program = Path(folder, "tiles.o"), Path(folder, "program")
        tiles.write_bytes(code)
        source = Path(__file__).with_name("arm_tiles.c")
        paired = ["-DPAIRED"] if rung == "i8mm" else []
        build = ["aarch64-linux-gnu-gcc", "-static", "-O1", *paired, source, tiles, "-o", program, "-lm"]
        subprocess.run(build, check=True)
        run = ["qemu-aarch64-static", "-cpu", "max", program]
        return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Ends with 1 where a tile is wrong, or spills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", choices=RUNGS, help="tell this rung's instructions alone")
    parser.add_argument("--run", choices=RUNGS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rung = given.count or given.run
    if rung:
        code, assembly = compiled(rung)
        good = count(rung, assembly)
        if given.run:
            print(emulated(rung, code), end="")
        sys.exit(not good)
    run = partial(subprocess.run, check=False, stdout=subprocess.PIPE, text=True)
    told = [run([sys.executable, __file__, "--run", one]) for one in RUNGS]
    print("".join(one.stdout for one in told), end="")
    results = [[line for line in one.stdout.splitlines() if line.startswith("result")] for one in told]
    equal = results[0] == results[1] and len(results[0]) == 2 * len(KINDS)
    print("both rungs agree to the bit" if equal else "the rungs differ")
    sys.exit(int(not equal or any(one.returncode for one in told)))


if __name__ == "__main__":
    main()
