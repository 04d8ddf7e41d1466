#!/usr/bin/env python3
"""Measure us and llama.cpp in alternation, on twin files of synthetic models, and set the ratios beside the targets.

Each measurement is a process of its own, and no two run at a time; in every round each run has its turn, us and
llama.cpp next to each other. Figures are medians over the rounds. Files are made where they are missing.

    pip install '.[bench]'
    python scripts/bench/peer.py                                    # all cases; needs 12 GB for the files
    python scripts/bench/peer.py --cases sparse-1.1b,depth --rounds 5 --models ~/bench
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.commands.bench.result import cpu_info  # noqa: E402  # after the path is set
from powerinfer_cli.placement.statistics import solved_folder  # noqa: E402  # after the path is set
from scripts.bench.peer_cases import CASES, Case, Figure, Measure, Model, Run, Sample, figure, runs_of  # noqa: E402  # after the path is set
from scripts.bench.peer_report import markdown, plot, to_json  # noqa: E402  # after the path is set
from scripts.synthetic.experts import ExpertShape, write_experts  # noqa: E402  # after the path is set
from scripts.synthetic.granite_hybrid import HybridShape, write_hybrid  # noqa: E402  # after the path is set
from scripts.synthetic.model import write_model  # noqa: E402  # after the path is set
from scripts.synthetic.statistics import write_statistics  # noqa: E402  # after the path is set
from scripts.synthetic.weights import Shape  # noqa: E402  # after the path is set

SHAPES: dict[str, Shape | ExpertShape | HybridShape] = {
    "1.1b": Shape(),
    "7b": Shape(embd=4096, ff=11008, layers=32, heads=32, kv=32, rank=512),
    "qwen3moe": ExpertShape(layers=6),  # of 48: a layer is what counts, and all of them would need 17 GB
    "qwen35moe": ExpertShape("qwen35moe", 2048, 512, 8, 16, 2, 256, 256, ctx=16384),  # of 40
    "granitehybrid": HybridShape(),  # 5 of 40 layers
    "gpt-oss": ExpertShape("gpt-oss", 2880, 2880, 4, 64, 8, 64, 32, 4),  # of 24 layers
    "tiny": Shape(embd=64, ff=128, layers=2, heads=4, kv=2, rank=16, vocab=400, ctx=2048),
}
PEER = ROOT / "scripts" / "bench" / "llama_cpp_bench.py"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), metavar="NAME,...", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of every run (default 3)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="repetitions in a turn (default 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of both (default 2)")
    parser.add_argument("--sparsity", type=float, default=0.9, metavar="N", help="of the models (default 0.9)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the models (default 0)")
    parser.add_argument("--shape", choices=list(SHAPES), help="measure all cases on this shape instead of their own")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(tempfile.gettempdir()) / "powerinfer-bench",
        metavar="FOLDER",
        help="where the files are, and are made (default: a temporary folder that is kept)",
    )
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="a Python that has llama_cpp")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "scripts" / "bench" / "results", metavar="FOLDER", help="for the report"
    )
    args = parser.parse_args(arguments)
    unknown = [name for name in args.cases.split(",") if name not in CASES]
    if unknown:
        parser.error(f"--cases {unknown[0]}: must be of {', '.join(CASES)}")
    if min(args.rounds, args.repeats, args.threads) < 1:
        parser.error("--rounds, --repeats and --threads must be at least 1")
    return args


def reshaped(case: Case, shape: str | None) -> Case:
    """The same case on models of another shape."""
    if shape is None:
        return case

    def moved(runs: tuple[Run, ...]) -> tuple[Run, ...]:
        return tuple(replace(run, model=replace(run.model, shape=shape)) for run in runs)

    return replace(case, what=f"{case.what} ({shape})", ours=moved(case.ours), theirs=moved(case.theirs))


def model_file(model: Model, args: argparse.Namespace) -> Path:
    """The file, made first where it is missing."""
    suffix = "gguf" if model.dense else "powerinfer.gguf"
    shape = SHAPES[model.shape]
    how = "" if isinstance(shape, ExpertShape | HybridShape) else f"{args.sparsity:g}-"
    name = f"{model.shape}-{model.type.lower()}-{how}seed{args.seed}.{suffix}"
    path: Path = args.models / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        if isinstance(shape, ExpertShape):
            write_experts(path, replace(shape, seed=args.seed), model.type)
        elif isinstance(shape, HybridShape):
            write_hybrid(path, replace(shape, seed=args.seed), model.type)
        else:
            write_model(path, replace(shape, sparsity=args.sparsity, seed=args.seed), model.type, dense=model.dense)
    if isinstance(shape, Shape) and not model.dense and not solved_folder(path).exists():
        write_statistics(path, replace(shape, sparsity=args.sparsity, seed=args.seed))
    return path


def measure(run: Run, path: Path, args: argparse.Namespace) -> Sample:
    """One turn, in a process of its own; the median of its repetitions."""
    sizes = (run.n_prompt, run.n_gen, run.depth, args.threads, args.repeats)
    if run.ours:
        flags = zip(("-p", "-n", "-d", "-t", "-r"), map(str, sizes), strict=True)
        command = [sys.executable, "-m", "powerinfer_cli", "bench", "-m", str(path), "-o", "jsonl"]
        command += [text for flag in flags for text in flag]
    else:
        command = [args.peer_python, str(PEER), str(path), *map(str, sizes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if run.ours else dict(os.environ)
    if run.rung:
        environment["POWERINFER_CPU"] = run.rung
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr.strip()}")
    found = json.loads(done.stdout)
    speeds = sorted(found["samples_ts"])
    percent = found.get("percent_of_bandwidth")
    return Sample(speeds[len(speeds) // 2], None if percent is None else percent / 100)


def main(arguments: list[str] | None = None) -> list[Figure]:
    """Measure, print, write."""
    args = parse(arguments)
    cases = [reshaped(CASES[name], args.shape) for name in args.cases.split(",")]
    runs = runs_of(cases)
    files = {run.model: model_file(run.model, args) for run in runs}
    samples: dict[Run, list[Sample]] = {run: [] for run in runs}
    for number in range(args.rounds):
        for run in runs:
            sample = measure(run, files[run.model], args)
            samples[run].append(sample)
            who = f"ours {run.rung}".strip() if run.ours else "llama.cpp"
            test = f"pp{run.n_prompt}" if run.n_prompt else f"tg{run.n_gen} @ d{run.depth}"
            name = files[run.model].name
            print(f"round {number + 1}/{args.rounds}: {name}, {test}, {who}: {sample.tokens_per_second:.2f} tokens/s")
    figures = [figure(case, samples) for case in cases]
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    about = (
        f"{cpu_info()}, {args.threads} threads, {1 - args.sparsity:.0%} of neurons active, "
        f"median of {args.rounds} rounds in alternation, {date}"
    )
    for found in figures:
        unit = "" if found.case.measure is Measure.BANDWIDTH else "x"
        print(f"{found.case.what}: {found.ratio:.2f}{unit}, target {found.case.target:g}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "peer.md").write_text(markdown(figures, about), encoding="utf-8")
    (args.out / "peer.json").write_text(to_json(figures, samples, about), encoding="utf-8")
    try:
        plot(figures, args.out / "peer.png", about)
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    return figures


if __name__ == "__main__":
    main()
