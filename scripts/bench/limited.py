#!/usr/bin/env python3
"""Decode a model that is larger than the memory allowed, and llama.cpp beside it, in turns. Linux; needs root.

Both map the file and rearrange nothing. Each turn is a process in a control group of its own whose memory, the file's
cached pages included, is limited; what of the file is cached already is dropped first, for it would not count.

    python scripts/make_synthetic.py e.gguf --experts 128 --layers 4
    python scripts/bench/limited.py e.gguf --share 0.5 --peer-python PYTHON_WITH_LLAMA_CPP
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PEER = ROOT / "scripts" / "bench" / "llama_cpp_bench.py"
GROUPS = Path("/sys/fs/cgroup")
# By version: where groups of memory are, and the file that has the limit.
PLACES = ((GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max"))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the file's size that may be used (default 0.5)")
    parser.add_argument("--tokens", type=int, default=24, help="of each turn; its second half counts (default 24)")
    parser.add_argument("--threads", type=int, default=2, help="of both (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has llama_cpp; none: ours alone")
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def make_group(limit: int) -> Path:
    """A control group with so many bytes. Exits where the system does not let us."""
    for root, file in PLACES:
        group = root / f"powerinfer-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        with suppress(OSError):
            (group / file).write_text(str(limit))
            return group
        group.rmdir()
    sys.exit(f"error: no control group with a memory limit can be made in {GROUPS}: it takes root")


def drop_cache(path: Path) -> None:
    """The file's pages, so that they are read anew and counted."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def turn(command: list[str], group: Path, model: Path) -> float:
    """Tokens a second of a command in the group."""
    drop_cache(model)
    enter = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), *command]
    done = subprocess.run(enter, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr.strip() or done.returncode}")
    found: list[float] = json.loads(done.stdout)["samples_ts"]
    return found[-1]


def decode(args: argparse.Namespace) -> None:
    """A turn of ours, in the group: random tokens, the first half of which fills what is allowed."""
    sys.path.insert(0, str(ROOT))
    from powerinfer_cli.gguf_io import open_gguf
    from powerinfer_cli.runtime import Engine, EngineOptions

    options = EngineOptions(n_threads=args.threads, n_ctx=args.tokens + 2, repack=False)
    engine = Engine.load(open_gguf(args.model), options)
    rng, half, start = random.Random(0), args.tokens // 2, 0.0
    for i in range(args.tokens):
        if i == half:
            start = time.perf_counter()
        engine.decode(rng.randrange(engine.config.n_vocab))
    print(json.dumps({"samples_ts": [(args.tokens - half) / (time.perf_counter() - start)]}))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse(arguments)
    if args.turn:
        decode(args)
        return
    given = ["--tokens", str(args.tokens), "--threads", str(args.threads)]
    runs = {"ours": [sys.executable, __file__, str(args.model.resolve()), "--turn", *given]}
    if args.peer_python:
        half = args.tokens // 2
        sizes = map(str, (0, half, half, args.threads, 1, 1))
        runs["llama.cpp"] = [args.peer_python, str(PEER), str(args.model.resolve()), *sizes]
    limit = int(args.model.stat().st_size * args.share)
    group = make_group(limit)
    try:
        for number in range(args.rounds):
            speeds = {name: turn(command, group, args.model) for name, command in runs.items()}
            told = ", ".join(f"{name} {speed:.2f} tokens/s" for name, speed in speeds.items())
            ratio = f": {speeds['ours'] / speeds['llama.cpp']:.2f}" if len(speeds) > 1 else ""
            print(f"round {number + 1}/{args.rounds}, {limit / 1e6:.0f} MB: {told}{ratio}")
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
