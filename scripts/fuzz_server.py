#!/usr/bin/env python3
"""Requests made up by schemathesis from the server's own OpenAPI document: none may be answered with a 500.

pip install '.[fuzz]'
python scripts/fuzz_server.py
python scripts/fuzz_server.py --examples 20 --schemathesis ENV/bin/schemathesis -- --chat-template chatml
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.clients.process import running, server_command  # noqa: E402  # after the path is set
from scripts.peer_suite.stand_in import write_stand_in  # noqa: E402  # after the path is set

# Every part is switched on, and texts are short, so that a request without a limit ends soon.
FLAGS = ("-c", "512", "-np", "2", "-n", "8", "--metrics", "--props", "--embedding", "--pooling", "mean")
TIMEOUT_S = 60


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100, metavar="N", help="for each operation (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is made up (default 0)")
    parser.add_argument("--schemathesis", default="schemathesis", metavar="PATH", help="the program")
    parser.add_argument("flags", nargs="*", help="for the server, after --")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The exit code of schemathesis: 0 if nothing is wrong; or 1 if the server does not survive."""
    args = parse(arguments)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        model = Path(folder) / "model.gguf"
        write_stand_in(model)  # unlike the bundled model, it can fill in the middle
        command = server_command(*FLAGS, "-m", str(model), "--slot-save-path", folder, *args.flags)
        with running(command, log) as server:
            options = {
                "--checks": "not_a_server_error",
                "--max-examples": args.examples,
                "--seed": args.seed,
                "--request-timeout": TIMEOUT_S,
            }
            words = [str(word) for pair in options.items() for word in pair]
            url = f"http://127.0.0.1:{server.port}/openapi.json"
            done = subprocess.run([args.schemathesis, "run", *words, "--continue-on-failure", url], check=False)
            if server.process.poll() is not None:
                print(f"the server ended with code {server.process.returncode}", file=sys.stderr)
                return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
