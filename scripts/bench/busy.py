#!/usr/bin/env python3
"""Measure one thread against two (or more), in alternation, while other processes keep every core busy.

Each measurement is a process of its own; in every round all have their turn, next to each other. What counts is the
ratio of a round's figures: absolute ones say what else the machine did. With --before, another checkout's package is
measured in the same rounds.

    python scripts/bench/busy.py                                # one busy process a core
    python scripts/bench/busy.py --busy 0                       # a quiet machine
    python scripts/bench/busy.py --before ../old --models s.gguf --rounds 7
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES = ("prompt", "decode")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[""], metavar="FILE", help="besides the bundled one, if named")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout, to compare with")
    parser.add_argument("--busy", type=int, default=os.cpu_count(), metavar="N", help="busy processes (default: cores)")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], metavar="N", help="default 1 2")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of every run (default 5)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="repetitions in a turn (default 5)")
    parser.add_argument("--prompt", type=int, default=256, metavar="N", help="tokens (default 256)")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="to write (default 256)")
    return parser.parse_args()


@contextmanager
def busy(n: int) -> Iterator[None]:
    """So many processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(package: Path, model: str, threads: int, args: argparse.Namespace) -> list[float]:
    """Tokens per second of the prompt, and of what is written: medians of the repetitions."""
    command = [sys.executable, "-m", "powerinfer_cli", "bench", "-o", "json", "-t", str(threads)]
    command += ["-p", str(args.prompt), "-n", str(args.tokens), "-r", str(args.repeats)]
    command += ["-m", model] if model else []
    environment = os.environ | {"PYTHONPATH": str(package)}
    result = subprocess.run(command, env=environment, cwd=package, check=True, stdout=subprocess.PIPE)
    return [statistics.median(test["samples_ts"]) for test in json.loads(result.stdout)]


def main() -> None:
    args = parse()
    packages = {"": ROOT} if args.before is None else {"before ": args.before.resolve(), "after ": ROOT}
    models = [str(Path(model).resolve()) if model else "" for model in args.models]
    runs = [(model, label, threads) for model in models for threads in args.threads for label in packages]
    found: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    for model, label, _ in runs:  # compile kernels, fill the page cache
        measure(packages[label], model, args.threads[-1], args)
    with busy(args.busy):
        for _ in range(args.rounds):
            for model, label, threads in runs:
                for figure, value in zip(FIGURES, measure(packages[label], model, threads, args), strict=True):
                    found[model, label, figure, threads].append(value)
    first = args.threads[0]
    print(f"{args.busy} busy processes, {os.cpu_count()} cores, {args.rounds} rounds")
    print("tokens/s, and ratios within a round: median (least)")
    for (model, label, figure, threads), values in sorted(found.items()):
        line = f"{Path(model).name or 'bundled':24} {label}{figure:7} -t {threads}: {statistics.median(values):9.1f}"
        if threads != first:
            line += shown(values, found[model, label, figure, first], f"-t {first}")
        if label == "after ":
            line += shown(values, found[model, "before ", figure, threads], "before")
        print(line)


def shown(values: list[float], others: list[float], what: str) -> str:
    """The ratios of each round's figures."""
    ratios = [a / b for a, b in zip(values, others, strict=True)]
    return f"   {statistics.median(ratios):5.2f} ({min(ratios):.2f}) of {what}"


if __name__ == "__main__":
    main()
