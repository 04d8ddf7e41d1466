#!/usr/bin/env python3
"""Compile the CPU's kernels, and those of tests, for an ARM machine's folder of compiled kernels: there it takes hours.

    python scripts/checks/arm_kernels.py RUNG FOLDER CPU FEATURES

They are what that machine's `kernels/jit` tells: `RUNG`, `cache_folder()`, `TARGET_CPU`. FEATURES may begin with a
minus sign behind a space. What is in the folder already, made there, is left as it is.
"""

import argparse
import functools
import hashlib
import importlib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.compiled_rungs import MACHINES, optimised, pretend

ROOT = Path(__file__).resolve().parents[2]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rung", choices=("any", "neon", "i8mm"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("cpu")
    parser.add_argument("features", type=str.strip)
    return parser.parse_args()


def kernels_by_name() -> dict[str, Any]:
    """The package's, and those that the tests' modules declare."""
    from powerinfer_cli.kernels.jit.ahead import every_kernel

    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "\n@kernel(" in path.read_text("utf-8"):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return {one.name: one for one in every_kernel()}


def compiled(one: Any, cpu: str, features: str) -> bytes:
    """An object file, as Numba makes it on that machine."""
    from powerinfer_cli.kernels.jit.compiler import translated

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = MACHINES["neon"].triple
    options = {"opt": 3, "reloc": "default", "codemodel": "jitdefault", "jit": True}
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, **options)
    text = translated(one.function, one.signature, one.name, one.exact)
    return bytes(target.emit_object(optimised(text, triple, target)))


_KERNELS: dict[str, Any] = {}


def keep(given: argparse.Namespace, name: str) -> None:
    """Compile one into a file as `kernels/jit/files.py` has it, in a process that has the kernels from its parent."""
    code = compiled(_KERNELS[name], given.cpu, given.features)
    made = given.folder / f"{name}.{os.getpid()}"
    made.write_bytes(hashlib.sha256(code).digest() + code)
    made.replace(given.folder / f"{name}.o")


def main() -> None:
    """Tells how many there are."""
    given = parse()
    pretend("i8mm" if given.rung == "any" else given.rung, given.rung)
    _KERNELS.update(kernels_by_name())
    there = {path.stem for path in given.folder.glob("*.o")}
    missing = [name for name in _KERNELS if name not in there]
    with multiprocessing.get_context("fork").Pool() as pool:
        pool.map(functools.partial(keep, given), missing, chunksize=1)
    print(f"{given.rung}: {len(there)} kernels were there, {len(missing)} were compiled here")


if __name__ == "__main__":
    main()
