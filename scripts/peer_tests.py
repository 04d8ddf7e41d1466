#!/usr/bin/env python3
"""Run llama.cpp's own server tests with this project's server, or with any other program, in place of llama-server.

Nothing in the tests is changed but the program that they start. Models that they would download are replaced by one
stand-in (rerankers by a tiny one of random weights), so tests that know what a certain model writes fail with any
program: run llama-server too, to tell which.

    pip install -r LLAMA_CPP/tools/server/tests/requirements.txt pytest-timeout    # in an environment of its own
    python scripts/peer_tests.py LLAMA_CPP --python ENV/bin/python --server BUILD/bin/llama-server --out theirs
    python scripts/peer_tests.py LLAMA_CPP --python ENV/bin/python --out ours --compare theirs
    python scripts/peer_tests.py LLAMA_CPP --python ENV/bin/python --out some unit/test_slot_save.py -k erase
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.peer_suite.results import compared, read_outcomes, summary  # noqa: E402  # after the path is set
from scripts.peer_suite.stand_in import write_cache, write_ranker, write_stand_in  # noqa: E402  # after the path is set
from scripts.peer_suite.wrapper import write_wrapper  # noqa: E402  # after the path is set

TIMEOUT_S = 180  # a test


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what goes to pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path, help="llama.cpp's sources, where tools/server/tests is")
    parser.add_argument("--server", metavar="PATH", help="the program to test (default: this project's)")
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="the stand-in (default: made from the bundled model)"
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="PATH", help="a Python with the tests' requirements"
    )
    parser.add_argument("--out", type=Path, default=Path("peer-tests"), metavar="FOLDER", help="for logs and results")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="of an earlier run, to set this one beside")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="of the servers (default 8080)")
    return parser.parse_known_args(arguments)


def run(args: argparse.Namespace, rest: list[str]) -> Path:
    """Run the tests; the JUnit file that tells of them."""
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    model = args.model.resolve() if args.model else out / "stand-in.gguf"
    if not model.exists():
        write_stand_in(model)
    program = (
        [args.server] if args.server else [sys.executable, "-m", "powerinfer_cli", "server", "--cors-origins", "*"]
    )
    ranker = out / "ranker.gguf"
    if not ranker.exists():
        write_ranker(ranker)
    wrapper, junit = out / "server", out / "junit.xml"
    ours = None
    if not args.server:
        ours = out / "models"
        ours.mkdir(exist_ok=True)
    write_wrapper(wrapper, program, model, sys.executable, ROOT, ours, ranker)
    write_cache(out / "hub", model)
    environment = {
        **os.environ,
        "LLAMA_SERVER_BIN_PATH": str(wrapper),
        "LLAMA_CACHE": str(out / "cache"),
        "HF_HUB_CACHE": str(out / "hub"),
        "PORT": str(args.port),
        "PYTHONPATH": str(ROOT),
    }
    (args.llama_cpp / "tools" / "server" / "tests" / "tmp").mkdir(exist_ok=True)  # where some write presets
    if "-m" not in rest:
        rest = ["-m", "not slow", *rest]  # the slow ones are about models of gigabytes
    options = ["-p", "no:cacheprovider", "-q", "--tb=short", f"--timeout={TIMEOUT_S}", f"--junitxml={junit}"]
    with (out / "log").open("w", encoding="utf-8") as log:
        subprocess.run(
            [args.python, "-m", "pytest", *options, *rest],
            cwd=args.llama_cpp / "tools" / "server" / "tests",
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if not junit.exists():
        sys.exit(f"error: pytest wrote no results; see {out / 'log'}")
    return junit


def main(arguments: list[str] | None = None) -> None:
    """Run, read, compare."""
    args, rest = parse(arguments)
    outcomes = read_outcomes(run(args, rest))
    print(summary(outcomes))
    if args.compare:
        report = compared(outcomes, read_outcomes(args.compare / "junit.xml"))
        (args.out / "report.md").write_text(report, encoding="utf-8")
        print(report)


if __name__ == "__main__":
    main()
