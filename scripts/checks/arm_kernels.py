#!/usr/bin/env python3
"""Compile the CPU's kernels for an ARM machine's folder of compiled kernels: there, under emulation, it takes hours.

    python scripts/checks/arm_kernels.py RUNG FOLDER CPU FEATURES

They are what that machine's `kernels/jit` tells: `RUNG`, `cache_folder()`, `TARGET_CPU`. FEATURES may begin with a
minus sign behind a space. What is in the folder already, made there, is left as it is.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.compiled_rungs import MACHINES, optimised, pretend


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rung", choices=("any", "neon", "i8mm"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("cpu")
    parser.add_argument("features", type=str.strip)
    return parser.parse_args()


def compiled(kernels: list[Any], cpu: str, features: str) -> Iterator[tuple[str, bytes]]:
    """Names and object files, as Numba makes them on that machine."""
    from powerinfer_cli.kernels.jit.compiler import translated

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = MACHINES["neon"].triple
    options = {"opt": 3, "reloc": "default", "codemodel": "jitdefault", "jit": True}
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, **options)
    for one in kernels:
        text = translated(one.function, one.signature, one.name, one.exact)
        yield one.name, bytes(target.emit_object(optimised(text, triple, target)))


def main() -> None:
    """Tells how many there are. Files are as `kernels/jit/files.py` has them."""
    given = parse()
    pretend("i8mm" if given.rung == "any" else given.rung, given.rung)
    from powerinfer_cli.kernels.jit.ahead import every_kernel

    there = {path.stem for path in given.folder.glob("*.o")}
    missing = [one for one in every_kernel() if one.name not in there]
    for name, code in compiled(missing, given.cpu, given.features):
        made = given.folder / f"{name}.{os.getpid()}"
        made.write_bytes(hashlib.sha256(code).digest() + code)
        made.replace(given.folder / f"{name}.o")
    print(f"{given.rung}: {len(there)} kernels were there, {len(missing)} were compiled here")


if __name__ == "__main__":
    main()
