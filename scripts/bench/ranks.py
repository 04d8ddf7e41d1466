#!/usr/bin/env python3
"""Measure what layer ranges cost: ranks on this machine beside one process, in alternation.

    python scripts/bench/ranks.py -m FILE                     # 2 and 3 ranks, one thread each
    python scripts/bench/ranks.py -m FILE -t 2 --ranks 2 --cores
    python scripts/bench/ranks.py -m FILE --ranks 2 --cores --streams 4

Told are medians: milliseconds of a single token, and what each border adds; tokens a second of a prompt, whose batches
are in work on all ranks at once; of several streams, in as many groups as a server finds fastest, and in each number
of groups; and the peak memory of each rank beside its share of the file.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.cluster.borders import LinkType  # noqa: E402  # after the path is set
from powerinfer_cli.cluster.executor import PipelineExecutor, RankWishes  # noqa: E402  # after the path is set
from powerinfer_cli.cluster.joining import Meeting  # noqa: E402  # after the path is set
from powerinfer_cli.cluster.seats import Seat  # noqa: E402  # after the path is set
from powerinfer_cli.model.ranges import divide, part_of  # noqa: E402  # after the path is set
from powerinfer_cli.opening import OpenModel, open_model  # noqa: E402  # after the path is set
from powerinfer_cli.runtime import Engine, EngineOptions, Piece  # noqa: E402  # after the path is set
from powerinfer_cli.serving.slots.grouping import Grouping  # noqa: E402  # after the path is set
from tests.helpers.cluster.ranks import free_port  # noqa: E402  # after the path is set

N_CTX, BATCH, PROMPT = 1024, 64, 512
WAIT_S = 300.0
MS = 1e3


def main() -> None:
    """A table a number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("-t", "--threads", type=int, default=1, help="of each rank, and of the one process")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3], metavar="N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40, help="single ones, a round")
    parser.add_argument("--cores", action="store_true", help="each rank but 0 on a core of its own, from core 1 on")
    parser.add_argument("--streams", type=int, default=1, metavar="N", help="texts at once, in place of the rest")
    given = parser.parse_args()
    for n_ranks in given.ranks:
        measure(given, n_ranks)


def measure(given: argparse.Namespace, n_ranks: int) -> None:
    """Print what n ranks are beside one."""
    port = free_port()
    others = [start(given, rank, n_ranks, port) for rank in range(1, n_ranks)]
    options = EngineOptions(n_ctx=N_CTX, n_ubatch=BATCH, n_threads=given.threads, n_sequences=given.streams)
    seat = Seat(0, n_ranks, "127.0.0.1", port)
    wishes = RankWishes(Meeting(seat, b"", WAIT_S, lambda _: None), LinkType.F32, print)
    with open_model(given.model, options, disable_gpu_index=True, device="cpu") as one:
        several = open_model(given.model, options, executor=lambda files, own: PipelineExecutor(files, own, wishes))
        if given.streams > 1:
            tell_streams(given, [other.pid for other in others], one, several)
            several.close()
            for other in others:
                other.wait(30)
            return
        singles, prompts = alternate(given, one, several)
        shares = [part_of(one.model, layers).nbytes for layers in divide(one.model, n_ranks)]
        peaks = [peak(other.pid) for other in others]
        several.close()
    for other in others:
        other.wait(30)
    single = [MS * statistics.median(times) for times in singles]
    print(f"{n_ranks} ranks, {given.threads} threads each")
    border = (single[1] - single[0]) / n_ranks  # the last one is that of the logits
    print(
        f"  a token: {single[0]:.3f} ms alone, {single[1]:.3f} ms, {single[0] / single[1]:.3f}x, {border:.3f} a border"
    )
    speed = [PROMPT / statistics.median(times) for times in prompts]
    print(f"  a prompt: {speed[0]:.0f} tokens/s alone, {speed[1]:.0f}, {speed[1] / speed[0]:.2f}x")
    for rank, (share, most) in enumerate(zip(shares[1:], peaks, strict=True), start=1):
        print(f"  rank {rank}: peak {most / 2**20:.0f} MiB, share of the file {share / 2**20:.0f} MiB")


def start(given: argparse.Namespace, rank: int, n_ranks: int, port: int) -> "subprocess.Popen[bytes]":
    """Another rank than 0."""
    seat = ["--rank", str(rank), "--world-size", str(n_ranks), "--master", f"127.0.0.1:{port}"]
    own = ["-c", str(N_CTX), "-ub", str(BATCH), "-t", str(given.threads)]
    if given.streams > 1:
        own += ["--port", "0", "-np", str(given.streams), "-no-kvu"]
    command = [sys.executable, "-m", "powerinfer_cli", "cluster", "run", "-m", str(given.model), *own, *seat]
    core = ["taskset", "-c", str(rank)] if given.cores else []
    waiting = ["--cluster-timeout", str(int(WAIT_S))]
    return subprocess.Popen([*core, *command, *waiting], cwd=ROOT, stderr=subprocess.DEVNULL)


def alternate(given: argparse.Namespace, *models: OpenModel) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of single tokens, and of prompts, of each model."""
    singles: list[list[float]] = [[] for _ in models]
    prompts: list[list[float]] = [[] for _ in models]
    for _ in range(given.rounds):
        for place, model in enumerate(models):
            engine = model.engine
            ids = np.random.default_rng(1).integers(0, engine.config.n_vocab, PROMPT).tolist()
            engine.reset()
            prompts[place].append(timed(lambda engine=engine, ids=ids: engine.prefill(ids)))
            singles[place] += [timed(lambda engine=engine: decode(engine)) for _ in range(given.tokens)]
    return singles, prompts


def tell_streams(given: argparse.Namespace, pids: list[int], *models: OpenModel) -> None:
    """Tokens a second of several streams, of each model: by the clock, and of the busiest process's own time."""
    n_tokens = given.streams * given.tokens
    # As many as a server tries; then each of them for itself.
    ways = [Grouping(model.engine.n_groups, time.perf_counter) for model in models]
    names = ["alone", "together"]
    for groups in range(1, models[1].engine.n_groups + 1):
        ways.append(Fixed(groups))
        names.append(f"{groups} groups")
    models = (models[0], *[models[1]] * (len(ways) - 1))
    speeds, busiest = ([list[float]() for _ in ways] for _ in range(2))
    for _ in range(given.rounds):
        for place, model in enumerate(models):
            for sequence in range(given.streams):
                model.engine.truncate(0, sequence)
            before = [time.process_time(), *map(worked, pids)]
            seconds = timed(
                lambda engine=model.engine, way=ways[place]: stream(engine, given.streams, given.tokens, way)
            )
            speeds[place].append(n_tokens / seconds)
            after = [time.process_time(), *map(worked, pids)]
            busiest[place].append(n_tokens / max(end - begin for begin, end in zip(before, after, strict=True)))
    print(f"{models[1].engine.n_groups} ranks, {given.threads} threads each, {given.streams} streams")
    for what, found in (("the clock", speeds), ("the busiest process's time", busiest)):
        medians = [statistics.median(one) for one in found]
        told = ", ".join(
            f"{name} {one:.1f} ({one / medians[0]:.2f}x)" for name, one in zip(names, medians, strict=True)
        )
        print(f"  tokens/s by {what}: {told}")


class Fixed(Grouping):
    """So many groups, whatever that takes."""

    def __init__(self, groups: int) -> None:
        super().__init__(groups, time.perf_counter)
        self._fixed = groups

    def groups(self, left: Sequence[int]) -> int:
        return self._fixed


def worked(pid: int) -> float:
    """Seconds of processor time."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def stream(engine: Engine, n_streams: int, n_tokens: int, grouping: Grouping) -> None:
    """Tokens of several texts, in as many groups as a server would have now."""
    there: deque[tuple[list[int], Callable[[], object]]] = deque()
    free = list(range(n_streams))
    left = n_streams * n_tokens
    while left or there:
        groups = grouping.groups([0] * n_streams)
        while left and free and len(there) < groups:
            size = min(left, math.ceil(n_streams / groups))
            carried, free = free[:size], free[size:]
            left -= len(carried)
            there.append((carried, engine.begin([Piece(i, (7,)) for i in carried])))
        carried, take = there.popleft()
        take()
        free += carried
        grouping.ended([1] * len(carried))


def decode(engine: Engine) -> None:
    engine.decode(7)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak(pid: int) -> int:
    """Bytes that a process has had in memory at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
