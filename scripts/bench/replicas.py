#!/usr/bin/env python3
"""Check the queueing model of replicas: what it foretells beside servers of this machine, under random requests.

    python scripts/bench/replicas.py -m FILE                       # 1, 2 and 3 replicas, one thread each
    python scripts/bench/replicas.py -m FILE --replicas 1 2 --loads 0.3 0.6 --seconds 60
    python scripts/bench/replicas.py -m FILE --core-share 0.4  # as root; the groups of Linux, version 1

First one server answers 1, 2, ... clients that never rest: that is what the model is told. Then requests come by
chance, as large a share of what all could do as `--loads` says, each to the one with the fewest; their lengths are
geometric, about exponential. Told are seconds from a request's coming to its end, the mean and what 95 of 100 stay
below, as foretold and as measured. Replicas share the machine: with more of them than cores, that shows, unless each
gets only a share of a core (`--core-share`: the kernel's quota, by periods of 5 ms).
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from scripts.clients.process import Server, running, server_command  # noqa: E402  # after the path is set
from solver.machines.replicas import Queue, simulate_queue  # noqa: E402  # after the path is set

PROMPT = "Once upon a time"
MOST_CLIENTS = 256
GROUPS, PERIOD_US = Path("/sys/fs/cgroup/cpu"), 5000


def main() -> None:
    """A table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.5], metavar="SHARE")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32, help="of an answer, on the mean")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--core-share", type=float, metavar="SHARE", help="of a core, that each replica gets")
    given = parser.parse_args()
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        flags = ["-m", str(given.model), "-t", "1", "-np", str(given.slots), "-c", str(512 * given.slots)]
        command = server_command(*flags, "--device", "cpu")
        servers = [stack.enter_context(running(command, log)) for _ in range(max(given.replicas))]
        for server in servers:
            ask(server, given.tokens)  # all is compiled and loaded
            if given.core_share:
                stack.enter_context(core_share(server, given.core_share))
        rates = tuple(busy_rate(servers[0], n, given.tokens, given.seconds / 4) for n in range(1, given.slots + 1))
        print("requests a second of one replica with 1, 2, ... in work:", *(f"{rate:.1f}" for rate in rates))
        print("| replicas | load | requests/s | mean: foretold, measured | 95 of 100: foretold, measured |")
        print("| --- | --- | --- | --- | --- |")
        for n in given.replicas:
            for load in given.loads:
                tell(Queue(rates, n, load * n * rates[-1]), servers[:n], given.tokens, given.seconds)


@contextmanager
def core_share(server: Server, share: float) -> Iterator[None]:
    """Meanwhile a server gets so much of a core in each period, and no more."""
    group = GROUPS / f"powerinfer-{server.process.pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(round(share * PERIOD_US)))
        (group / "cgroup.procs").write_text(str(server.process.pid))
        yield
    finally:
        (GROUPS / "cgroup.procs").write_text(str(server.process.pid))
        group.rmdir()


def tell(queue: Queue, servers: Sequence[Server], tokens: int, seconds: float) -> None:
    """A row."""
    took = open_loop(servers, queue.arrivals, tokens, seconds)
    late = float(np.quantile(simulate_queue(queue, 20_000), 0.95))
    measured = float(np.mean(took)), float(np.quantile(took, 0.95))
    print(
        f"| {queue.n_replicas} | {queue.utilisation:.2f} | {queue.arrivals:.1f} "
        f"| {queue.seconds:.3f}, {measured[0]:.3f} s | {late:.3f}, {measured[1]:.3f} s |",
        flush=True,
    )


def ask(server: Server, tokens: int) -> None:
    """One answer of exactly so many tokens."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    wanted = {"prompt": PROMPT, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False}
    try:
        connection.request("POST", "/completion", json.dumps(wanted), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(body.decode()[:200])
    finally:
        connection.close()


def busy_rate(server: Server, n_clients: int, tokens: int, seconds: float) -> float:
    """Requests a second with so many clients that ask again at once."""
    end, done = time.monotonic() + seconds, [0] * n_clients

    def client(place: int) -> None:
        rng = np.random.default_rng(place)
        while time.monotonic() < end:
            ask(server, int(rng.geometric(1 / tokens)))
            done[place] += 1

    begin = time.monotonic()
    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - begin)


def open_loop(servers: Sequence[Server], arrivals: float, tokens: int, seconds: float) -> list[float]:
    """Seconds of each request, which come whether others have ended or not."""
    rng, lock = np.random.default_rng(0), threading.Lock()
    in_work, took = [0] * len(servers), list[float]()

    def one(length: int, came: float) -> None:
        with lock:
            place = min(range(len(servers)), key=lambda i: in_work[i])
            in_work[place] += 1
        ask(servers[place], length)
        with lock:
            in_work[place] -= 1
            took.append(time.monotonic() - came)

    with ThreadPoolExecutor(MOST_CLIENTS) as pool:
        begin = now = time.monotonic()
        works = []
        while now < begin + seconds:
            now += float(rng.exponential(1 / arrivals))
            time.sleep(max(0.0, now - time.monotonic()))
            works.append(pool.submit(one, int(rng.geometric(1 / tokens)), now))
        for work in works:
            work.result()
    return took


if __name__ == "__main__":
    main()
