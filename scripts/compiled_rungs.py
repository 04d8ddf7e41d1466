#!/usr/bin/env python3
"""Compile the CPU's kernels for CPUs that need not be here; print instructions, spills, widths of loads.

    python scripts/compiled_rungs.py neon                    # the dot products of all types
    python scripts/compiled_rungs.py avxvnni --kernel "few"  # kernels with this in their name, a regular expression

A line for each kernel: instructions; those that multiply bytes, or else floats; how many instructions 32 weights of one
row take in the innermost loop that holds these; spills; loads by their bits. It runs no kernel. Ends with 1 where one
spills.
"""

import argparse
import importlib
import os
import pkgutil
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@dataclass(frozen=True)
class Machine:
    """A rung's CPU, by LLVM's names, and what its assembly looks like."""

    triple: str
    cpu: str
    features: dict[str, bool]
    products: tuple[tuple[str, int], ...]  # instructions, and weights that each multiplies: a kernel's is its first
    branch: str


_X86 = "x86_64-unknown-linux-gnu"
_JUMP = r"j[a-z]+\s+(\.L\w+)"
MACHINES = {
    "neon": Machine(
        "aarch64-unknown-linux-gnu",
        "cortex-a76",
        {"neon": True, "dotprod": True},
        (("sdot", 16), ("fmla", 4)),
        r"(?:b|b\.\w+|cbn?z|tbn?z)\s+.*?(\.L\w+)$",
    ),
    "i8mm": Machine(
        "aarch64-unknown-linux-gnu",
        "neoverse-v1",
        {"neon": True, "dotprod": True, "i8mm": True},
        (("smmla", 32), ("sdot", 16), ("fmla", 4)),
        r"(?:b|b\.\w+|cbn?z|tbn?z)\s+.*?(\.L\w+)$",
    ),
    "avxvnni": Machine(
        _X86,
        "alderlake",
        dict.fromkeys(("avx2", "fma", "f16c", "avxvnni"), True),
        (("vpdpbusd", 32), ("vfmadd", 8)),
        _JUMP,
    ),
    "avx2": Machine(
        _X86,
        "haswell",
        dict.fromkeys(("avx2", "fma", "f16c"), True),
        (("vpmaddubsw", 32), ("vfmadd", 8)),
        _JUMP,
    ),
}


@dataclass(frozen=True)
class Assembly:
    """What the text of a kernel's machine code tells."""

    instructions: int
    product: str
    products: int
    per_block: float  # instructions of the innermost loop with the most products, for 32 weights; nan: there is none
    spills: int
    loads: Counter[int]  # bits -> how many


class _Features(dict[str, bool]):
    """As llvmlite tells them."""

    def flatten(self) -> str:
        return ",".join(f"{'+' if there else '-'}{name}" for name, there in self.items())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rung", choices=MACHINES)
    parser.add_argument("--kernel", default="^dot_(?!few|bundle)", help="a regular expression; all: '.'")
    return parser.parse_args(arguments)


def pretend(rung: str, chosen: str = "") -> Machine:
    """From now on this machine is one whose best rung is `rung`, and kernels are for it, or for `chosen`, a lower one.

    Once in a process, before kernels are imported.
    """
    machine = MACHINES[rung]
    platform.machine = lambda: machine.triple.partition("-")[0]
    cpu_names = importlib.import_module("powerinfer_cli.system.cpu")
    cpu_names.has_arm_dot_products = lambda: True
    cpu_names.has_arm_matrix_products = lambda: machine.features.get("i8mm", False)
    os.environ["POWERINFER_CPU"] = chosen
    here = llvm.get_host_cpu_features, llvm.get_host_cpu_name
    llvm.get_host_cpu_features, llvm.get_host_cpu_name = lambda: _Features(machine.features), lambda: machine.cpu
    rungs = importlib.import_module("powerinfer_cli.kernels.jit.rung")
    rungs.TARGET_CPU = None  # what Numba makes of the kernels here is not kept
    llvm.get_host_cpu_features, llvm.get_host_cpu_name = here
    assert (chosen or rung) == rungs.RUNG, "the modules of kernels were imported before"
    return machine


def target_of(machine: Machine) -> Any:
    """What LLVM compiles for it with."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = ",".join(f"+{name}" for name in machine.features)
    target = llvm.Target.from_triple(machine.triple)
    return target.create_target_machine(cpu=machine.cpu, features=features, opt=3, reloc="pic")


def assembled(rung: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Name and assembly of each kernel; see `pretend`."""
    machine = pretend(rung)
    from powerinfer_cli.kernels import cpu, formats
    from powerinfer_cli.kernels.jit import declared
    from powerinfer_cli.kernels.jit.compiler import translated

    for package in (formats, cpu):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    target = target_of(machine)
    for kernel in declared():
        if re.search(pattern, kernel.name):
            text = translated(kernel.function, kernel.signature, kernel.name, kernel.exact)
            yield kernel.name, target.emit_assembly(optimised(text, machine.triple, target))


def optimised(text: str, triple: str, target: Any) -> Any:
    """As Numba does it: nearly all is inlined first."""
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{target.target_data}"', text)
    module = llvm.parse_assembly(re.sub(r'target triple = ".*"', f'target triple = "{triple}"', text))
    for level in (0, 3):
        options = llvm.create_pipeline_tuning_options(level)
        options.loop_vectorization = level > 0
        passes = llvm.create_pass_builder(target, options)
        manager = passes.getModulePassManager()
        if not level:
            manager.add_loop_rotate_pass()
            manager.add_instruction_combine_pass()
            manager.add_jump_threading_pass()
        manager.run(module, passes)
    return module


def read(text: str, machine: Machine) -> Assembly:
    """Of the assembly of one kernel, with LLVM's comments."""
    lines = [line.strip().removeprefix("{vex}").lstrip() for line in text.splitlines()]
    code = [line for line in lines if re.match(r"\.L\w+:", line) or re.match(r"[a-z]", line)]
    instructions = [line for line in code if not line.startswith(".L")]
    counts = {one: sum(line.startswith(one[0]) for line in instructions) for one in machine.products}
    product = next((one for one, n in counts.items() if n), machine.products[0])
    spills = sum("-byte Folded Spill" in line or "-byte Spill" in line for line in lines)
    return Assembly(
        len(instructions),
        product[0],
        counts[product],
        _per_block(code, machine.branch, *product),
        spills,
        Counter(b for line in code for b in _loads(line)),
    )


def _per_block(code: list[str], branch: str, product: str, weights: int) -> float:
    labels = {line.partition(":")[0]: i for i, line in enumerate(code) if line.startswith(".L")}
    loops = []
    for end, line in enumerate(code):
        found = re.match(branch, re.split(r"\s+(?://|#)", line)[0])
        start = labels.get(found[1], end) if found else end
        body = [one for one in code[start:end] if not one.startswith(".L")]
        if products := sum(one.startswith(product) for one in body):
            loops.append((-products, len(body) + 1))
    if not loops:
        return float("nan")
    products, length = min(loops)
    return length / (-products * weights / 32)


_ARM_BITS = {"q": 128, "d": 64, "x": 64, "w": 32, "s": 32, "h": 16, "b": 8}


def _loads(line: str) -> Iterator[int]:
    """Bits of each load of an instruction, from memory that is not the stack's."""
    if re.search(r"Reload|\[sp|\(%rsp|\(%rbp", line):
        return
    if found := re.match(r"ld(p|r|ur)s?([bhw]?)\s+([a-z])\d+", line):
        bits = {"b": 8, "h": 16, "w": 32}.get(found[2]) or _ARM_BITS.get(found[3], 0)
        yield from [bits] * (2 if found[1] == "p" else 1)
    elif found := re.match(r"v\w+\s.*\(%r.*\), ?.*%([xyz])mm\d+$", line):
        yield {"x": 128, "y": 256, "z": 512}[found[1]]


def main() -> None:
    """A line a kernel."""
    given = parse()
    spilled = False
    for name, text in assembled(given.rung, given.kernel):
        seen = read(text, MACHINES[given.rung])
        spilled |= seen.spills > 0
        widths = " ".join(f"{bits}x{n}" for bits, n in sorted(seen.loads.items()))
        spills = f"SPILLS {seen.spills}" if seen.spills else "no spills"
        per_block = f"{seen.per_block:6.1f} / 32 weights"
        print(f"{name:<28} {seen.instructions:>6} {seen.products:>5} {per_block} {spills:>10}  {widths}", flush=True)
    sys.exit(int(spilled))


if __name__ == "__main__":
    main()
