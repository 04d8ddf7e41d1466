#!/usr/bin/env python3
"""Measure what `--cache-ram` gives a conversation that comes back to a slot which others have had meanwhile.

    python scripts/bench/prompt_cache.py -m ~/models/SmolLM2.gguf
    python scripts/bench/prompt_cache.py --hostile 200 --limit 64    # also long prompts without end, and their memory

Two servers of one slot, with and without the cache, in alternation. Told are medians: tokens of the prompt that are
read when it comes back, and milliseconds to its first token. The text has to be that of a third server, where the
conversation has never left its slot; where it is read anew it may differ, as keys of tokens that were written are
rounded in another order than those of tokens that were read.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.opening.bundled import bundled_model  # noqa: E402  # after the path is set
from scripts.clients.process import running, server_command  # noqa: E402  # after the path is set

MIB = 1 << 20
RESIDENT, CACHE = "process_resident_memory_bytes", "powerinfer:prompt_cache_bytes"
WORDS = ("river", "house", "old", "fox", "seven", "red", "hens", "clock", "never", "told", "the", "time", "and", "then")


def text(seed: int, n_words: int) -> str:
    """Words in an order of their own."""
    order = random.Random(seed)
    return " ".join(order.choice(WORDS) for _ in range(n_words))


def ask(client: httpx.Client, prompt: str, n_predict: int) -> tuple[dict[str, object], float]:
    """The answer, and milliseconds until it has come."""
    began = time.perf_counter()
    body = {"prompt": prompt, "n_predict": n_predict, "temperature": 0}
    answer = client.post("/completion", json=body).raise_for_status()
    return dict(answer.json()), 1e3 * (time.perf_counter() - began)


def come_back(client: httpx.Client, seed: int, n_words: int) -> tuple[int, float, str]:
    """Tokens read, milliseconds to the first token, and the text of a conversation's second turn."""
    story = text(seed, n_words)
    first, _ = ask(client, story, 8)
    ask(client, text(seed + 1_000, n_words), 1)
    turn = f"{story}{first['content']} and then"
    again, ms = ask(client, turn, 1)
    timings = again["timings"]
    assert isinstance(timings, dict)
    longer, _ = ask(client, turn, 16)
    return int(timings["prompt_n"]), ms, str(longer["content"])


def metric(client: httpx.Client, name: str) -> float:
    """One of /metrics."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def returning(clients: Sequence[httpx.Client], rounds: int, n_words: int) -> None:
    """Prints medians. clients: with the cache, without it, with a slot for each conversation."""
    found, same, anew = [], 0, 0
    for client in clients:
        come_back(client, 1, n_words)
    for seed in range(2, rounds + 2):
        cached, plain, never_left = (come_back(client, seed, n_words) for client in clients)
        same += cached[2] == never_left[2]
        anew += plain[2] == never_left[2]
        found.append((*cached[:2], *plain[:2], never_left[1]))
    n, ms, n_plain, ms_plain, ms_stayed = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"coming back: {n:.0f} tokens read, {ms:.1f} ms; without the cache {n_plain:.0f}, {ms_plain:.1f} ms")
    print(f"time to the first token: {ms / ms_plain:.3f}x; in a slot that was never left {ms_stayed / ms_plain:.3f}x")
    print(f"texts as in a slot that was never left: {same} of {rounds}; read anew {anew}")


def flood(client: httpx.Client, n: int, limit: int, n_words: int, before: float) -> None:
    """Prints the most that the cache and the process took while n long prompts came; it had so many bytes before."""
    most = resident = 0.0
    for seed in range(n):
        ask(client, text(5_000 + seed, n_words), 1)
        most = max(most, metric(client, CACHE))
        resident = max(resident, metric(client, RESIDENT))
    dropped = metric(client, "powerinfer:prompt_cache_dropped_total")
    print(f"{n} prompts: cache {most / MIB:.1f} of {limit} MiB at most, {dropped:.0f} texts dropped")
    print(f"resident memory grew by {(resident - before) / MIB:.0f} MiB")


def main() -> None:
    """A line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=bundled_model(), metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--words", type=int, default=300, metavar="N", help="words of a conversation")
    parser.add_argument(
        "--hostile", type=int, default=0, metavar="N", help="long prompts that come one after the other"
    )
    parser.add_argument("--limit", type=int, default=64, metavar="MiB", help="--cache-ram")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients = []
        for n_slots, mib in ((1, args.limit), (1, 0), (2, 0)):
            log = stack.enter_context((folder / f"{n_slots}-{mib}.log").open("wb"))
            size = ("-c", str(8 * args.words * n_slots), "-np", str(n_slots), "-cram", str(mib))
            server = stack.enter_context(running(server_command("-m", str(args.model), "--metrics", *size), log))
            url = f"http://127.0.0.1:{server.port}"
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=300.0)))
        come_back(clients[0], 0, args.words)
        before = metric(clients[0], RESIDENT) - metric(clients[0], CACHE)
        returning(clients, args.rounds, args.words)
        if args.hostile:
            flood(clients[0], args.hostile, args.limit, args.words, before)


if __name__ == "__main__":
    main()
