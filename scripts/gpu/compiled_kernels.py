#!/usr/bin/env python3
"""Compile every Triton kernel for cards that need not be here; print registers, spills, shared memory, load widths.

    python scripts/gpu/compiled_kernels.py              # sm_75, 80, 86, 90
    python scripts/gpu/compiled_kernels.py 86 --kernel expert
    python scripts/gpu/compiled_kernels.py gfx1100 gfx942          # AMD's

A line for each kernel and what it was compiled for (types of weights, activations): the most of each figure. Ends with
1 where one spills. It runs no kernel; Triton's own cuobjdump reads the machine code.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARDS = ("75", "80", "86", "90")
WIDTHS = (8, 16, 32, 64, 128)  # bits of a load of one thread


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cards", nargs="*", default=CARDS, help="compute capabilities (default 75 80 86 90), or gfx names"
    )
    parser.add_argument("--kernel", default="", help="only those with this in their name")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # in a process of one card's own
    return parser.parse_args(arguments)


@dataclass
class Seen:
    """Of one kernel, over all that it was compiled for."""

    variants: int = 0
    registers: int = 0
    local: int = 0
    shared: int = 0
    loads: Counter[int] = field(default_factory=Counter)

    def line(self, name: str) -> str:
        """For people."""
        widths = " ".join(f"{bits}x{self.loads[bits]}" for bits in WIDTHS if self.loads[bits])
        spilled = f"SPILLS {self.local}" if self.local else "no spills"
        return f"{name:<16} {self.variants:>3} {self.registers:>4} {spilled:>10} {self.shared:>6}  {widths}"


def read_code(cubin: bytes) -> tuple[int, int, Counter[int]]:
    """Registers and bytes of local memory of a thread; how many loads from global memory are so many bits wide."""
    from triton.backends.nvidia import __file__ as backend

    tool = Path(backend).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        usage = _run(tool, "--dump-resource-usage", file.name)
        code = _run(tool, "--dump-sass", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump says nothing of registers: {usage[:200]}")
    return int(found[1]), int(found[2]) + int(found[3]), Counter(map(_bits, re.findall(r"\bLDG(\.[\w.]+)", code)))


def read_assembly(text: str) -> tuple[int, int, Counter[int]]:
    """The same of AMD's assembly: vector registers, bytes of private memory, loads from global memory."""
    registers, local = (re.search(rf"\.{key}:\s+(\d+)", text) for key in ("vgpr_count", "private_segment_fixed_size"))
    if registers is None or local is None:
        raise ValueError("the assembly says nothing of registers")
    loads = re.findall(r"\b(?:global|buffer|flat)_load_(\w+)", text)
    return int(registers[1]), int(local[1]), Counter(map(_amd_bits, loads))


def _amd_bits(suffix: str) -> int:
    """dword, dwordx4, ubyte, short_d16 of older GPUs; b32, b128, u8, d16_b16 of newer ones."""
    if found := re.search(r"dword(?:x(\d))?", suffix):
        return 32 * int(found[1] or 1)
    if found := re.search(r"[buif](8|16|32|64|96|128)$", suffix):
        return int(found[1])
    return 8 if "byte" in suffix else 16


def _bits(suffix: str) -> int:
    found = re.search(r"\.[US]?(8|16|64|128)\b", suffix)
    return int(found[1]) if found else 32


def _run(tool: Path, *arguments: str) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def compile_here(card: str, wanted: str) -> None:
    """Compile for a card, print the figures of each variant. Only in a process of its own."""
    from tests.helpers.kernels.compile_kernels import main as compile_all

    def told(name: str, code: bytes | str) -> tuple[str, ...]:
        if wanted not in name:
            return ()
        registers, local, loads = read_assembly(code) if isinstance(code, str) else read_code(code)
        return (str(registers), str(local), *(str(loads[bits]) for bits in WIDTHS))

    compile_all(card, told)


def summary(text: str) -> dict[str, Seen]:
    """By kernel, what `compile_here` printed."""
    found: dict[str, Seen] = {}
    for line in text.splitlines():
        name, shared, *figures = line.split()
        if not figures:
            continue
        registers, local, *loads = map(int, figures)
        seen = found.setdefault(name, Seen())
        seen.variants += 1
        seen.registers, seen.local = max(seen.registers, registers), max(seen.local, local)
        seen.shared = max(seen.shared, int(shared))
        seen.loads.update(dict(zip(WIDTHS, loads, strict=True)))
    return found


def main(arguments: list[str] | None = None) -> None:
    """A table for each card."""
    args = parse(arguments)
    sys.path.insert(0, str(ROOT))
    if args.inside:
        compile_here(args.cards[0], args.kernel)
        return
    spilled = False
    for card in args.cards:
        command = [sys.executable, __file__, "--inside", card, "--kernel", args.kernel]
        done = subprocess.run(
            command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"error: kernels do not compile for {card}: {done.stderr.strip().splitlines()[-1]}")
        print(card if card.startswith("gfx") else f"sm_{card}")
        print(f"{'kernel':<16} {'of':>3} {'regs':>4} {'':>10} {'shared':>6}  loads by bits")
        for name, seen in sorted(summary(done.stdout).items()):
            print(seen.line(name))
            spilled |= seen.local > 0
    if spilled:
        sys.exit(1)


if __name__ == "__main__":
    main()
