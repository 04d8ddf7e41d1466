#!/usr/bin/env python3
"""Measure what `powerinfer cluster serve` costs: one replica beside a plain server on the same file, in alternation.

    python scripts/bench/cluster.py                          # the bundled model
    python scripts/bench/cluster.py -m s1b.powerinfer.gguf --threads 2 --tokens 64 --rounds 7

Told are medians: tokens a second of one stream, as its client sees them come; its first token, and a request that
does next to nothing, in milliseconds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.opening.bundled import bundled_model  # noqa: E402  # after the path is set
from scripts.clients.process import running, server_command  # noqa: E402  # after the path is set

SMALL = 50  # requests of a round
MS = 1e3
KINDS = {"plain": ("server",), "cluster": ("cluster", "serve", "--replicas", "1")}


def small(client: httpx.Client) -> float:
    """Milliseconds of a request that does next to nothing."""
    began = time.perf_counter()
    for _ in range(SMALL):
        client.post("/tokenize", json={"content": "Once"}).raise_for_status()
    return MS * (time.perf_counter() - began) / SMALL


def stream(client: httpx.Client, n_tokens: int) -> tuple[float, float]:
    """(tokens a second behind the first one, milliseconds until that)."""
    body = {"prompt": "Once upon a time", "n_predict": n_tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    began = time.perf_counter()
    with client.stream("POST", "/completion", json=body) as answer:
        times = [time.perf_counter() for line in answer.iter_lines() if line.startswith("data: ")]
    return (len(times) - 1) / (times[-1] - times[0]), MS * (times[0] - began)


def measure(args: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """By figure and kind, one of each round."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    flags = ("-m", str(args.model), "-t", str(args.threads), "-c", "1024", "-np", "1")
    with ExitStack() as stack:
        clients = {}
        for kind, words in KINDS.items():
            log = stack.enter_context(tempfile.TemporaryFile())
            command = [*server_command()[:-1], *words, *flags]
            server = stack.enter_context(running(command, log))
            url = f"http://127.0.0.1:{server.port}"
            clients[kind] = stack.enter_context(httpx.Client(base_url=url, timeout=300.0))
            stream(clients[kind], 8)
        for round_ in range(args.rounds):
            for kind, client in sorted(clients.items(), reverse=bool(round_ % 2)):
                speed, first = stream(client, args.tokens)
                found["stream, tokens/s", kind].append(speed)
                found["first token, ms", kind].append(first)
                found["small request, ms", kind].append(small(client))
    return found


def main() -> None:
    """A line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=bundled_model(), metavar="FILE")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of a stream (default 128)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    args = parser.parse_args()
    found = measure(args)
    for figure in dict.fromkeys(figure for figure, _ in found):
        plain, cluster = found[figure, "plain"], found[figure, "cluster"]
        pairs = [theirs / ours for theirs, ours in zip(cluster, plain, strict=True)]
        print(
            f"{figure:20} plain {statistics.median(plain):9.2f}  cluster {statistics.median(cluster):9.2f}"
            f"  ratio {statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})"
        )


if __name__ == "__main__":
    main()
