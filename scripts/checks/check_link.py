#!/usr/bin/env python3
"""Check that ranks on a slow or lossy network are slower, never wrong, never stuck. Needs root, /dev/net/tun and `ip`.

    python scripts/checks/check_link.py                       # plain, 200 ms each way, 1 % loss, both
    python scripts/checks/check_link.py --tokens 64 --links "0 5"   # milliseconds, percent
    python scripts/checks/check_link.py --cut                 # of an idle server's three ranks, the way between two

Ranks, each in a network namespace of its own; packets between them pass this process, which delays and loses them
as `tc netem` does, whose module not every kernel has. A line a link: seconds, packets, and whether the text is that of
one machine; or a line a pair of ranks: seconds until each has ended, which are to be 10 at most, and what it says.
"""

import argparse
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Once upon a time"
TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
MTU = 1500
LEAST_S = 60.0  # for a text, besides what the link costs
ROUND_TRIPS = 3  # of a token, at most
IPV4 = 4
IDLE_S, ENDING_S = 3.0, 10.0


class Namespace:
    """A network of its own with one address."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        run("ip", "netns", "add", name)
        here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            enter(there)
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH", b"tun0", IFF_TUN | IFF_NO_PI))
        finally:
            enter(here)
            os.close(here)
            os.close(there)
        for words in ("link set lo up", "link set tun0 up", f"addr add {address}/24 dev tun0"):
            run("ip", "-n", name, *words.split())

    def close(self) -> None:
        os.close(self.tun)
        run("ip", "netns", "del", self.name)


class Link(threading.Thread):
    """Carries packets to where they are sent, each so much later; loses some of them, and all between `cut` ends."""

    def __init__(self, ends: Sequence[Namespace], delay_s: float, loss: float) -> None:
        super().__init__(daemon=True)
        self._ends, self._delay, self._loss = [one.tun for one in ends], delay_s, loss
        self._places = {socket.inet_aton(one.address): one.tun for one in ends}
        self.cut: frozenset[int] = frozenset()
        self._random, self._ended = random.Random(7), threading.Event()
        self.carried = self.lost = 0

    def run(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        while not self._ended.is_set():
            left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.2
            ready, _, _ = select.select(self._ends, [], [], min(left, 0.2))
            for end in ready:
                packet = os.read(end, MTU + 100)
                other = self._places.get(packet[16:20]) if packet[0] >> 4 == IPV4 else None
                if other is None:
                    continue
                if self.cut == {end, other} or self._random.random() < self._loss:
                    self.lost += 1
                    continue
                self.carried += 1
                heapq.heappush(waiting, (time.monotonic() + self._delay, self.carried, other, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(waiting)
                os.write(other, packet)

    def end(self) -> None:
        self._ended.set()
        self.join()


def main() -> int:
    """0 where all texts are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default=None, help="without: the bundled one")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--cut", action="store_true", help="the way between two ranks, in place of the texts")
    parser.add_argument("--links", nargs="+", default=["0 0", "200 0", "0 1", "200 1"], metavar="'MS PERCENT'")
    given = parser.parse_args()
    model = ["-m", given.model] if given.model else []
    if given.cut:
        answers = [cut(pair, model) for pair in ((0, 1), (1, 2), (0, 2))]
        return int(not all(answers))
    text = [*model, "-p", PROMPT, "-n", str(given.tokens), "--temp", "0", "-t", "1", "--device", "cpu", "-c", "512"]
    wanted = subprocess.run(command("main", *text), capture_output=True, text=True, check=True, cwd=ROOT).stdout
    name = f"ranks{os.getpid()}"
    ends: list[Namespace] = []
    with tempfile.TemporaryDirectory() as scratch:
        key = Path(scratch) / "key"
        key.write_text(os.urandom(32).hex())
        try:
            ends += [Namespace(f"{name}{i}", f"10.99.7.{1 + i}") for i in range(2)]
            answers = [
                measure((ends[0], ends[1]), link, [*text, "--cluster-key-file", str(key)], wanted)
                for link in given.links
            ]
        finally:
            for end in ends:
                end.close()
    return int(not all(answers))


def measure(ends: tuple[Namespace, Namespace], link: str, text: list[str], wanted: str) -> bool:
    """Whether the text over this link is right, in time, with its line."""
    delay, loss = map(float, link.split())
    carrier = Link(ends, delay / 1e3, loss / 100)
    carrier.start()
    begin, limit = time.monotonic(), LEAST_S + ROUND_TRIPS * 2 * delay / 1e3 * (10 + len(wanted))
    ranks = ["--world-size", "2", "--master", f"{ends[0].address}:29517"]
    others = [
        subprocess.Popen(
            ["ip", "netns", "exec", end.name, *command("cluster", "run", *ranks, "--rank", str(rank), *text)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank, end in enumerate(ends)
    ]
    try:
        found, notes = others[0].communicate(timeout=limit)
        others[1].communicate(timeout=20)
        said = "equal" if found == wanted else f"DIFFERENT: {found!r} {notes[-300:]!r}"
    except subprocess.TimeoutExpired:
        said = f"STUCK for {limit:.0f} s"
    finally:
        for one in others:
            one.kill()
            one.communicate()
        carrier.end()
    seconds, packets = time.monotonic() - begin, f"{carrier.carried} packets, {carrier.lost} lost"
    print(f"{delay:5.0f} ms each way, {loss:g} % loss: {seconds:6.1f} s, {packets}: {said}", flush=True)
    return said == "equal"


def cut(pair: tuple[int, int], model: list[str]) -> bool:
    """Whether all ranks of an idle server end in time once the way between two of them is cut, with its line."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        key, ends = Path(scratch) / "key", list[Namespace]()
        key.write_text(os.urandom(32).hex())
        for i in range(3):
            ends.append(Namespace(f"cut{os.getpid()}{i}", f"10.99.7.{1 + i}"))
            stack.callback(ends[-1].close)
        carrier = Link(ends, 0.0, 0.0)
        carrier.start()
        stack.callback(carrier.end)
        own = [*model, "-t", "1", "--device", "cpu", "-c", "512", "--port", "8080", "--cluster-key-file", str(key)]
        own += ["--world-size", "3", "--master", f"{ends[0].address}:29517"]
        logs, ranks = [Path(scratch) / str(rank) for rank in range(3)], list[subprocess.Popen[bytes]]()
        for rank, end in enumerate(ends):
            words = ["ip", "netns", "exec", end.name, *command("cluster", "run", "--rank", str(rank), *own)]
            with logs[rank].open("wb") as log:
                ranks.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT))
            stack.callback(ranks[-1].kill)
        until = time.monotonic() + LEAST_S
        while "http://" not in logs[0].read_text() and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(IDLE_S)
        began, carrier.cut = time.monotonic(), frozenset(ends[i].tun for i in pair)
        took = dict[int, float]()
        while len(took) < 3 and time.monotonic() < began + 3 * ENDING_S:
            time.sleep(0.02)
            for rank, one in enumerate(ranks):
                if one.poll() is not None:
                    took.setdefault(rank, time.monotonic() - began)
        said = [(log.read_text().splitlines() or [""])[-1] for log in logs]
    seconds = ", ".join(f"{took[rank]:.1f}" if rank in took else "never" for rank in range(3))
    print(f"between ranks {pair}: {seconds} s; {said}", flush=True)
    return len(took) == 3 and max(took.values()) <= ENDING_S


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "powerinfer_cli", *words]


def enter(namespace: int) -> None:
    """This thread. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def run(*words: str) -> None:
    subprocess.run(words, check=True)


if __name__ == "__main__":
    sys.exit(main())
