#!/usr/bin/env python3
"""Run `powerinfer solve` on models of several kinds: how long it takes, in what memory, and how well it foretold.

Each run is a process of its own; a folder is kept between a verdict and the complete run that follows it.

    python scripts/bench/solve.py --real SmolLM2-135M-Instruct.Q4_1.gguf        # that, and the bundled model
    python scripts/bench/solve.py --cases bundled 1b 7b --work /tmp/solve       # synthetic ones are made there

Targets are those for two quiet cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.gguf_io import open_gguf  # noqa: E402  # after the path is set
from powerinfer_cli.opening.bundled import bundled_model  # noqa: E402  # after the path is set
from solver.default_text import read_size  # noqa: E402  # after the path is set
from solver.dense import write_dense  # noqa: E402  # after the path is set
from solver.duration import seconds_to_come  # noqa: E402  # after the path is set
from solver.state import read_state  # noqa: E402  # after the path is set
from solver.verdict import Verdict  # noqa: E402  # after the path is set

HELD = 4500  # tokens, about
RUN_BYTES = 1 << 31  # of models, that dense ones are run over
COLUMNS = ["case", "run", "seconds", "target", "peak MiB", "model MiB", "predicted", "measured", "ratio", "result"]


@dataclass(frozen=True)
class Case:
    """verdict, complete: seconds that are aimed at, None for none. flags: of the complete run; None: there is none."""

    name: str
    verdict: int | None
    complete: int | None
    flags: tuple[str, ...] | None = ("--force",)
    synthetic: tuple[str, ...] = ()


CASES = {
    "real": Case("real", 45, 300),
    "bundled": Case("bundled, its predictors removed", None, 40),
    "1b": Case("1.1B, ReLU", 120, 900, synthetic=()),
    "7b": Case(
        "7B-shaped, ReLU", 480, None, None, ("--embd", "4096", "--ff", "11008", "--layers", "32", "--heads", "32")
    ),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), help="default: bundled, and real if it is given")
    parser.add_argument("--real", type=Path, metavar="FILE", help="a dense GGUF")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for synthetic models, which are kept there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for results, each case in a folder of its own")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="as solve has it")
    args = parser.parse_args()
    args.cases = args.cases or ["bundled", *(["real"] if args.real else [])]
    if "real" in args.cases and not args.real:
        parser.error("--cases real needs --real FILE")
    return args


def model_of(name: str, args: argparse.Namespace, folder: Path) -> Path:
    """A dense file in a folder of its own."""
    if name == "real":
        link = folder / args.real.name
        link.symlink_to(args.real.resolve())
        return link
    if name == "bundled":
        path = folder / "bundled.gguf"
        write_dense(open_gguf(bundled_model()), path)
        return path
    made: Path = (args.work or folder) / f"{name}.gguf"
    if not made.exists():
        command = [sys.executable, str(ROOT / "scripts" / "make_synthetic.py"), f"{made}.tmp", *CASES[name].synthetic]
        subprocess.run(command, check=True)
        write_dense(open_gguf(Path(f"{made}.tmp")), made)
        Path(f"{made}.tmp").unlink()
    return made


def run(model: Path, out: Path, flags: Sequence[str]) -> tuple[float, float, dict[str, Any]]:
    """Seconds, peak of the memory in bytes, and what was reported."""
    command = [sys.executable, "-m", "powerinfer_cli", "solve", "-m", str(model), "-o", str(out), "--json", *flags]
    begin = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"solve -m {model} {' '.join(flags)} ended with {process.returncode}")
    return time.monotonic() - begin, 1024.0 * usage.ru_maxrss, json.loads(told)


def extrapolated(out: Path, weights: int) -> float:
    """Seconds of a complete run without gradient steps, by a verdict's rates; of training by those of processors."""
    verdict = Verdict.from_record(read_state(out).found("verdict"))
    rates = replace(verdict.rates, training=verdict.alone)
    return sum(seconds_to_come(rates, read_size(weights), HELD, 0.0).values())


def rows_of(case: Case, model: Path, out: Path, common: Sequence[str]) -> list[tuple[str, ...]]:
    """A verdict, and the complete run or what it would take."""
    size = sum(tensor.nbytes for tensor in open_gguf(model).tensors.values()) / 2**20
    rows = []

    def add(what: str, seconds: float | None, target: int | None, peak: float | None, speeds: Any, says: str) -> None:
        predicted, measured = speeds
        rows.append(
            (
                case.name,
                what,
                "-" if seconds is None else f"{seconds:.0f}",
                "-" if target is None else f"{target}",
                "-" if peak is None else f"{peak / 2**20:,.0f}",
                f"{size:,.0f}",
                f"{predicted:.1f}" if predicted else "-",
                f"{measured:.1f}" if measured else "-",
                f"{predicted / measured:.2f}" if predicted and measured else "-",
                says,
            )
        )

    seconds, peak, found = run(model, out, [*common, "--verdict"])
    verdict = found["verdict"]
    speeds, gain = verdict["tokens_per_second"], f"gain {verdict['gain']:+.0%}"
    add("verdict", seconds, case.verdict, peak, (speeds["measured"], None), gain)
    add("dense, by costs alone", None, None, None, (speeds["dense"], speeds["measured"]), "")
    if case.flags is None:
        weights = sum(tensor.n_elements for tensor in open_gguf(model).tensors.values())
        add("complete, extrapolated", extrapolated(out, weights), 5400, None, (None, None), "")
        return rows
    seconds, peak, found = run(model, out, [*common, *case.flags])
    compared, quality = found["comparison"], found["quality"]
    layers = found["predictors"]["layers"]
    recall = sum(layer["recall"] for layer in layers) / len(layers)
    excess = sum(layer["predicted_density"] for layer in layers) / sum(layer["true_density"] for layer in layers)
    says = f"recall {recall:.3f}, {excess:.2f} x active; perplexity {quality['loss']:+.1%} +/- {quality['error']:.1%}; "
    says += f"{compared['ratio']:.2f} x dense" if compared else "stays dense"
    add("complete", seconds, case.complete, peak, (None, None), says)
    # What the verdict told beside what was decoded after all was made; of a model that stays dense nothing is.
    add(
        "verdict's dense", None, None, None, (speeds["measured"], compared["dense"] if compared else decoded(model)), ""
    )
    if compared:
        add("verdict's sparse", None, None, None, (speeds["expected"], compared["sparse"]), gain)
        add("plan's sparse", None, None, None, (compared["predicted"], compared["sparse"]), "")
    return rows


def decoded(model: Path) -> float:
    """Tokens a second of a dense model, by `powerinfer bench`: the fastest of as many runs as take a second or more; so
    count verdicts and comparisons, too (`solver/decoding.py`).
    """
    runs = max(6, min(100, RUN_BYTES // model.stat().st_size))
    what = ["-m", str(model), "-p", "0", "-n", "256", "-r", str(runs), "-o", "json"]
    command = [sys.executable, "-m", "powerinfer_cli", "bench", *what]
    told = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    return max(map(float, json.loads(told.stdout)[0]["samples_ts"]))


def main() -> None:
    """Print a table in Markdown."""
    args = parse()
    common = [] if args.threads is None else ["-t", str(args.threads)]
    common += [] if args.steps is None else ["--steps", str(args.steps)]
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS), flush=True)
    for name in args.cases:
        with TemporaryDirectory() as folder:
            model = model_of(name, args, Path(folder))
            out = args.keep / name if args.keep else Path(folder) / "out"
            for row in rows_of(CASES[name], model, out, common):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
