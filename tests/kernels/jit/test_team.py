"""A team: every piece of every operation is done once, in the program's order, by however many threads."""

import os
import threading
import time

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.kernels.jit import kernel, team
from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.kernels.jit.team import FIRST, OPERATION, Team, take
from powerinfer_cli.kernels.simd import fetch_add, i64, nanoseconds
from powerinfer_cli.system.cores import pin_thread
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs

Ints = npt.NDArray[np.int64]


@kernel(OPERATION, "test_turned_about")
def _turned_about(address, worker):
    """out[i] += source[n - 1 - i] + 1, so that who does not wait for the others reads what is not there yet."""
    op = i64(address)
    source, out, n = i64(op[FIRST]), i64(op[FIRST + 1]), op[FIRST + 2]
    while True:
        i = take(op)
        if i >= n:
            return
        fetch_add(out, i, source[n - 1 - i] + 1)
        fetch_add(i64(op[FIRST + 3]), worker, 1)


@kernel(OPERATION, "test_long_piece")
def _long_piece(address, worker):
    """One piece, that takes so many nanoseconds of work."""
    if take(i64(address)) == 0:
        end = nanoseconds() + i64(address)[FIRST]
        while nanoseconds() < end:
            pass


class Chain:
    """`length` operations, each over what the one before it has left; all have the same n pieces."""

    def __init__(self, n: int = 101, length: int = 40) -> None:
        self.rows = np.zeros((length + 1, n), np.int64)
        self.done = np.zeros(64, np.int64)
        steps = [
            Operation(_turned_about, (self.rows[i], self.rows[i + 1], n, self.done), wait=True) for i in range(length)
        ]
        self.program = assemble(steps)

    def run(self, by: Team, threads: int = 0) -> None:
        self.rows[:] = 0
        self.rows[0] = np.arange(self.rows.shape[1])
        self.done[:] = 0
        by.run(self.program.table, threads)

    def check(self) -> None:
        length, n = self.rows.shape
        last = np.arange(n) if length % 2 else np.arange(n)[::-1]
        np.testing.assert_array_equal(self.rows[-1], last + length - 1)
        assert self.done.sum() == n * (length - 1)


def others() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_piece_is_done_once_and_in_order(size: int) -> None:
    chain, by = Chain(), team_of(size)
    for _ in range(5):
        chain.run(by)
        chain.check()
        assert not chain.done[size:].any()
    by.close()


def test_fewer_threads_than_the_team_has() -> None:
    chain, by = Chain(), team_of(4)
    for threads in (1, 3, 2, 4, 1, 9):
        chain.run(by, threads)
        chain.check()
        assert not chain.done[threads:].any()
    by.close()


def test_threads_that_sleep_are_woken() -> None:
    chain, by = Chain(n=5000, length=2), team_of(3)
    for _ in range(3):
        chain.run(by)
        chain.check()
        time.sleep(0.1)  # far longer than they look for work
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.1  # all of the process's threads together
    by.close()


def test_who_waits_for_a_long_piece_sleeps() -> None:
    by, program = team_of(4), assemble([Operation(_long_piece, (400_000_000,))])
    by.run(assemble([Operation(_long_piece, (0,))]).table)
    wall, cpu = time.perf_counter(), time.process_time()
    by.run(program.table)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert cpu < 1.4 * wall  # of one thread; of two that spin, twice
    by.close()


def test_more_threads_than_cores_meet_often() -> None:
    chain, by = Chain(n=8, length=1000), team_of(4 * (os.cpu_count() or 1))
    began = time.monotonic()
    chain.run(by)
    chain.check()
    assert time.monotonic() - began < 20
    by.close()


def test_nobody_waits_for_a_thread_that_is_not_running(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: None)
        by = team_of(3)
    chain = Chain()
    for _ in range(3):
        chain.run(by)
        chain.check()
        assert chain.done[0] == chain.done.sum()
    by.close()


def test_a_steady_team_goes_on_with_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team.Crew, "threads", property(lambda _: 1))  # as where fewer are faster
    chain, usual, steady = Chain(), team_of(2), team_of(2, steady=True)
    for _ in range(20):
        chain.run(usual)
        chain.check()
        assert not chain.done[1:].any()
    by_the_second, end = 0, time.monotonic() + 30
    while not by_the_second and time.monotonic() < end:
        chain.run(steady)
        chain.check()
        by_the_second += chain.done[1]
    assert by_the_second
    usual.close()
    steady.close()


def test_no_more_threads_take_part_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "usable_cores", lambda: frozenset({0, 5}))
    before = others()
    chain, by = Chain(), Team(6)
    assert by.size == 6
    assert len(others() - before) == 1
    chain.run(by, 5)
    chain.check()
    assert not chain.done[2:].any()
    by.close()


def test_cores_that_threads_are_kept_on_are_counted() -> None:
    before = others()
    here = frozenset(os.sched_getaffinity(0))
    one = frozenset({min(here)})
    by = Team(5, (one, one))
    try:
        assert not others() - before
        chain = Chain()
        chain.run(by)
        chain.check()
        assert os.sched_getaffinity(0) == one
    finally:
        by.close()
        pin_thread(here)


def test_close_ends_the_threads() -> None:
    before = others()
    by = team_of(5)
    assert len(others() - before) == 4
    Chain().run(by)
    by.close()
    by.close()
    until = time.monotonic() + 20
    while others() - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not others() - before


def test_a_program_without_operations_ends() -> None:
    by = team_of(3)
    by.run(assemble([]).table)
    by.close()


@pytest.mark.parametrize("size", [0, -1, 1 << 10])
def test_sizes_that_make_no_sense(size: int) -> None:
    with pytest.raises(ValueError, match="a team of"):
        Team(size)
