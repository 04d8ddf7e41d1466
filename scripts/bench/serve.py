#!/usr/bin/env python3
"""Measure our server beside `powerinfer bench` and llama-server, in alternation, on twin files of a synthetic model.

Ours runs the sparse file, llama-server its dense twin, or both the same file of a mixture of experts; both by loopback,
with the same cheap client, one at a time. Figures are medians over the rounds. Files are made where they are missing.

    python scripts/bench/serve.py --llama-server BUILD/bin/llama-server                # 1.1B; needs 2 GB for the files
    python scripts/bench/serve.py --llama-server BUILD/bin/llama-server --shape qwen3moe --streams 4,8
    python scripts/bench/serve.py --shape tiny --rounds 1 --tokens 16 --out /tmp/out   # ours alone, to try it
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402  # after the path is set
from rich.table import Table  # noqa: E402  # after the path is set

from powerinfer_cli.commands.bench.result import cpu_info  # noqa: E402  # after the path is set
from scripts.bench.peer import SHAPES  # noqa: E402  # after the path is set
from scripts.bench.peer import model_file as peer_file  # noqa: E402  # after the path is set
from scripts.bench.peer_cases import Model  # noqa: E402  # after the path is set
from scripts.bench.serve_cases import EXPERT_FIGURES, FIGURES, Found, first_token, result, streams  # noqa: E402  # after the path is set
from scripts.clients.process import Server, running, server_command  # noqa: E402  # after the path is set
from scripts.synthetic.experts import ExpertShape  # noqa: E402  # after the path is set

KINDS = {"gpt-oss": "MXFP4"}  # of weights, by shape; else Q4_0
SLOT_TOKENS = 1024  # of context for each stream


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", metavar="PATH", help="the program to compare with (default: none)")
    parser.add_argument("--no-ours", action="store_true", help="measure llama-server alone")
    parser.add_argument("--streams", default="1,4,8", metavar="N,...", help="of 1, 4 and 8 (default 1,4,8)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of every server (default 3)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="repetitions in a turn (default 3)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of each stream (default 128)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of all (default 2)")
    parser.add_argument("--sparsity", type=float, default=0.9, metavar="N", help="of the model (default 0.9)")
    parser.add_argument("--shape", choices=list(SHAPES), default="1.1b", help="of the model (default 1.1b)")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(tempfile.gettempdir()) / "powerinfer-bench",
        metavar="FOLDER",
        help="where the files are, and are made (default: a temporary folder that is kept)",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "scripts" / "bench" / "results", metavar="FOLDER", help="for the report"
    )
    args = parser.parse_args(arguments)
    if min(args.rounds, args.repeats, args.threads) < 1 or args.tokens < 2:
        parser.error("--rounds, --repeats and --threads must be at least 1, --tokens at least 2")
    if not set(args.streams.split(",")) <= {"1", "4", "8"}:
        parser.error(f"--streams {args.streams}: must be of 1, 4 and 8")
    return args


def model_file(args: argparse.Namespace, dense: bool) -> Path:
    """The file, named as peer.py names it, made first where it is missing."""
    routed = isinstance(SHAPES[args.shape], ExpertShape)
    given = argparse.Namespace(models=args.models, sparsity=args.sparsity, seed=0)
    return peer_file(Model(args.shape, KINDS.get(args.shape, "Q4_0"), dense or routed), given)


def command(args: argparse.Namespace, ours: bool, count: int) -> list[str]:
    """The server for `count` streams, ours or theirs, with the same flags."""
    program = server_command() if ours else [args.llama_server]
    context = min(SLOT_TOKENS, SHAPES[args.shape].ctx) * count
    flags = {"-m": model_file(args, dense=not ours), "-c": context, "-np": count, "-t": args.threads}
    return program + [str(word) for pair in flags.items() for word in pair]


async def measured(server: Server, count: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """What a server for `count` streams gives in one turn, behind a request that warms it up."""
    n_vocab = SHAPES[args.shape].vocab
    await streams(server.port, count, 8, 99, n_vocab)
    found = {
        f"{count} stream{'s' * (count > 1)}": [
            await streams(server.port, count, args.tokens, seed, n_vocab) for seed in range(args.repeats)
        ]
    }
    if count == 1:
        found["first token"] = [await first_token(server.port, args.repeats, 7, n_vocab)]
    return found


def bench(args: argparse.Namespace) -> list[float]:
    """Tokens a second of `powerinfer bench`, in a process of its own."""
    flags = {"-m": model_file(args, dense=False), "-p": 0, "-n": args.tokens, "-r": args.repeats, "-t": args.threads}
    words = [str(word) for pair in flags.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "powerinfer_cli", "bench", *words, "-o", "jsonl"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: powerinfer bench\n{done.stderr.strip()}")
    return [float(speed) for speed in json.loads(done.stdout)["samples_ts"]]


def measure_round(args: argparse.Namespace, samples: dict[str, list[float]]) -> None:
    """One turn of every server, ours and theirs next to each other."""
    sides = [name for name, there in (("ours", not args.no_ours), ("theirs", args.llama_server)) if there]
    counts = [int(count) for count in args.streams.split(",")]
    if "ours" in sides and 1 in counts:
        samples["bench"] += bench(args)
    for count in counts:
        for side in sides:
            with tempfile.TemporaryFile() as log, running(command(args, side == "ours", count), log) as server:
                found = asyncio.run(measured(server, count, args))
            for what, values in found.items():
                samples[f"{side}, {what}"] += values
                print(f"{side}, {what}: {', '.join(f'{value:.1f}' for value in values)}", file=sys.stderr)


def table(found: Sequence[Found]) -> Table:
    """For the terminal."""
    out = Table("what", "ours", "beside", "ratio", "target", "")
    for one in found:
        out.add_row(*cells(one))
    return out


def cells(found: Found) -> list[str]:
    """A line of either table."""
    figure = found.figure
    beside = "-" if found.other is None else f"{found.other:.1f} {figure.unit}"
    target = f"< {figure.target:g} {figure.unit}" if figure.unit == "ms" else f"{figure.target:g}"
    ratio = "-" if found.ratio is None else f"{found.ratio:.2f}"
    return [figure.what, f"{found.ours:.1f} {figure.unit}", beside, ratio, target, "met" if found.met else "missed"]


def main(arguments: list[str] | None = None) -> list[Found]:
    """Measure, print, write."""
    args = parse(arguments)
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(args.rounds):
        print(f"round {number + 1}/{args.rounds}", file=sys.stderr)
        measure_round(args, samples)
    shape = SHAPES[args.shape]
    routed = isinstance(shape, ExpertShape)
    found = [one for figure in (EXPERT_FIGURES if routed else FIGURES) if (one := result(figure, samples)) is not None]
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    what = f", {shape.layers} layers" if routed else f", {args.sparsity:.0%} sparse, dense for llama-server"
    about = (
        f"{args.shape} {KINDS.get(args.shape, 'Q4_0')}{what}; {cpu_info()}, {args.threads} threads, "
        f"{args.tokens} tokens a stream, medians of {args.rounds} rounds of {args.repeats} in alternation, {date}"
    )
    Console(markup=False, emoji=False).print(table(found), about, sep="\n")
    head = ["what", "ours", "beside", "ratio", "target", ""]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *map(cells, found))]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "serve.md").write_text(f"{about}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    report = {"about": about, "figures": [asdict(one) for one in found], "samples": samples}
    (args.out / "serve.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
