#!/usr/bin/env python3
"""Kill ranks at random for some minutes beneath a server whose layers are on several of them, and start them again.

    python scripts/soak_ranks.py --minutes 5 --ranks 3

Held against: all other ranks end within 10 s, with a line that names the one that is gone; a cluster that is started
again serves; no answer is ever wrong (the reference is one machine's). Exits with 1 where anything of it fails.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.opening import open_model  # noqa: E402  # after the path is set
from tests.helpers.cluster.ranks import free_port  # noqa: E402  # after the path is set

PROMPTS = ("Once upon a time, there was a little fox", "One day a whale and a crab", "The owl said to the rabbit that")
N, N_CTX, CLIENTS = 24, 1024, 4
ENDING_S, STARTING_S, ANSWER_S = 10.0, 120.0, 60.0


@dataclass
class Tally:
    """What clients were told."""

    right: int = 0
    refused: int = 0  # while a rank was gone
    wrong: list[str] = field(default_factory=list)


class Cluster:
    """Ranks as processes; what each says on stderr is in a file."""

    def __init__(self, n_ranks: int, folder: Path) -> None:
        self.port, master = free_port(), free_port()
        own = ["-c", str(N_CTX), "-t", "1", "-np", str(CLIENTS), "--device", "cpu", "--port", str(self.port)]
        self.logs = [folder / f"rank{rank}" for rank in range(n_ranks)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            seat = ["--rank", str(rank), "--world-size", str(n_ranks), "--master", f"127.0.0.1:{master}"]
            command = [sys.executable, "-m", "powerinfer_cli", "cluster", "run", *seat, *own]
            with log.open("w") as file:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file))

    def wait(self) -> None:
        """Until it serves. Raises SystemExit: it does not."""
        until = time.monotonic() + STARTING_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"does not serve within {STARTING_S:g} s: {[log.read_text()[-300:] for log in self.logs]}")

    def kill(self, rank: int) -> tuple[float, list[str]]:
        """Seconds until all others have ended, and what each has said of it: its error."""
        self.processes[rank].kill()
        begin, others = time.monotonic(), [i for i in range(len(self.processes)) if i != rank]
        for i in others:
            try:
                self.processes[i].wait(max(0.1, begin + 3 * ENDING_S - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.processes[i].kill()
        seconds = time.monotonic() - begin
        said = [self.logs[i].read_text().splitlines() for i in others]
        return seconds, [next((line for line in lines if line.startswith("error: ")), "") for lines in said]

    def end(self) -> None:
        """All of it, whatever it does."""
        for process in self.processes:
            process.kill()
            process.wait()

    def stop(self) -> list[int]:
        """As by Ctrl-C at rank 0; what each exits with."""
        self.processes[0].send_signal(signal.SIGTERM)
        return [process.wait(30) for process in self.processes]


def main() -> int:
    """0 where all held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with open_model(n_ctx=N_CTX, n_threads=1, device="cpu") as model:
        wanted = {prompt: model.generate(prompt, max_tokens=N, temperature=0.0).read().text for prompt in PROMPTS}
    tally, failures, chance = Tally(), list[str](), random.Random(given.seed)
    slowest, until = 0.0, time.monotonic() + 60 * given.minutes
    rounds = 0
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < until:
            rounds += 1
            cluster = Cluster(given.ranks, Path(scratch))
            try:
                cluster.wait()
                ended = threading.Event()
                clients = [
                    threading.Thread(
                        target=ask_on, args=(cluster.port, wanted, tally, ended, random.Random(rounds * 99 + i))
                    )
                    for i in range(CLIENTS)
                ]
                for client in clients:
                    client.start()
                time.sleep(chance.uniform(0.5, 6))
                rank = chance.randrange(given.ranks)
                seconds, lines = cluster.kill(rank)
                ended.set()
                for client in clients:
                    client.join()
            finally:
                cluster.end()
            slowest = max(slowest, seconds)
            named = all(line.startswith(f"error: rank {rank} (") for line in lines)
            if seconds > ENDING_S or not named:
                failures.append(f"rank {rank} killed: {seconds:.1f} s, {lines}")
            answers = f"{tally.right} right, {tally.refused} unanswered"
            print(f"round {rounds}: rank {rank} killed, others ended in {seconds:.1f} s; {answers}", flush=True)
        cluster = Cluster(given.ranks, Path(scratch))
        try:
            cluster.wait()
            codes = cluster.stop()
        finally:
            cluster.end()
    if any(codes):
        failures.append(f"ended by SIGTERM, ranks exit with {codes}")
    print(f"{rounds} ranks killed, slowest end {slowest:.1f} s; {tally.right} answers right, {len(tally.wrong)} wrong")
    for line in (*failures, *tally.wrong[:5]):
        print(f"FAILED: {line}")
    return int(bool(failures or tally.wrong or not tally.right))


def ask_on(port: int, wanted: dict[str, str], tally: Tally, ended: threading.Event, chance: random.Random) -> None:
    """One request after the other, until the cluster is gone."""
    while not ended.is_set():
        prompt = chance.choice(PROMPTS)
        body = json.dumps({"prompt": prompt, "n_predict": N, "temperature": 0}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/completion", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
                found = json.load(answer)["content"]
        except (OSError, urllib.error.HTTPError, ValueError) as error:
            tally.refused += 1
            if isinstance(error, TimeoutError):
                tally.wrong.append("a client has waited in vain")
            time.sleep(0.1)
            continue
        if found == wanted[prompt]:
            tally.right += 1
        else:
            tally.wrong.append(f"{prompt!r}: {found!r}, not {wanted[prompt]!r}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
