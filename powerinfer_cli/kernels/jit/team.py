"""A team of threads that carries out a program: one operation after the other, each shared among all threads.

A program is an int64 array [n_ops, WIDTH]. Column 0 of a row is the address of the operation's kernel, column 1 counts
the pieces of work already taken, column 2 says whether all must have finished before the next row begins; the rest are
the operation's own numbers. Which thread does which piece is left to chance, so a kernel's result must not depend on
it: every number of the result is computed by one thread, in a fixed order.
"""

import contextlib
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.jit import helper, kernel, types
from powerinfer_cli.kernels.jit.crew import Crew
from powerinfer_cli.kernels.simd import (
    atomic_load,
    atomic_store,
    calling,
    compare_exchange,
    fetch_add,
    i64,
    nanoseconds,
    pause,
    sem_init,
    sem_post,
    sem_wait,
)
from powerinfer_cli.system.cores import pin_thread, usable_cores

__all__ = ["COUNTER", "FIRST", "OPERATION", "TEAM_KERNELS", "WAIT", "WIDTH", "Program", "Team", "take"]

Program: TypeAlias = npt.NDArray[np.int64]

WIDTH = 32
COUNTER, WAIT, FIRST = 1, 2, 3  # columns of a row; FIRST is the first of the operation's own
# op: address of the row; worker: this thread's number.
OPERATION = types.void(types.int64, types.int64)

# The control block, int64, each value on a cache line of its own; behind it a flag and a semaphore for each thread.
_LINE = 8
_STAGE, _THREADS, _PROGRAM, _LENGTH, _STOP, _ASLEEP, _STALLED, _SLEEPERS = (_LINE * i for i in range(8))
# _STAGE: the number of the job, the row where its present stage begins, and how many threads are at work in it. A stage
# is a row that must be waited for, with the rows before it that need not.
_MEMBER_BITS, _ROW_BITS, _JOB_BITS = 10, 22, 31
_MOST_THREADS, _END = 1 << _MEMBER_BITS, (1 << _ROW_BITS) - 1  # no row is _END: it says that the job is done
_PAUSES = 64  # between looks at the clock
# Nanoseconds: some times what it costs to sleep and be woken; and between jobs, where Python chooses a token meanwhile.
PATIENCE, _BETWEEN_JOBS = 200_000, 1_000_000

_call = calling(types.void, types.int64, types.int64)


@helper
def take(op):
    """Claim the next piece of an operation's work; its number."""
    return fetch_add(op, COUNTER, 1)


@helper
def _row_of(stage):
    return (stage >> _MEMBER_BITS) & _END


@helper
def _wake(control, address, threads):
    """Wake those of the first threads that sleep."""
    if atomic_load(control, _ASLEEP):
        for worker in range(threads):
            sleeper = _SLEEPERS + worker * 2 * _LINE
            if atomic_load(control, sleeper):
                atomic_store(control, sleeper, 0)
                sem_post(address + (sleeper + _LINE) * 8)


@helper
def _go_on(control, address, stage, following):
    """Leave a stage whose work is claimed to its last piece: to the others in it, or, being the last, for the next one.

    Whether it is left to others. `following`: the row of the next one.
    """
    while True:
        now = atomic_load(control, _STAGE)
        if now != stage + 1:
            if compare_exchange(control, _STAGE, now, now - 1):
                return True
            continue
        job = stage >> (_MEMBER_BITS + _ROW_BITS)
        next_stage = ((job << _ROW_BITS) + following) << _MEMBER_BITS
        if compare_exchange(control, _STAGE, now, next_stage + (following != _END)):
            _wake(control, address, 1 if following == _END else control[_THREADS])
            return False


@helper
def _take_part(control, address, worker, stage):
    """Being one of a stage's threads: work, in this and in the next ones, until there is one to be left to others, or
    none. The stage that was left, with no threads in it.
    """
    row, length, left = _row_of(stage), control[_LENGTH], False
    while not left and row != _END:
        stage = ((stage >> (_MEMBER_BITS + _ROW_BITS) << _ROW_BITS) + row) << _MEMBER_BITS
        wait = np.int64(0)
        while not wait:
            at = control[_PROGRAM] + row * (WIDTH * 8)
            _call(i64(at)[0], at, worker)
            wait = i64(at)[WAIT]
            row += 1
        row = row if row < length else _END
        left = _go_on(control, address, stage, row)
    return stage


@helper
def _calls(control, worker, stage, left):
    """Whether a stage is one that this thread waits for, having left another."""
    if stage >> _MEMBER_BITS == left >> _MEMBER_BITS:
        return False
    return worker == 0 or (_row_of(stage) != _END and worker < control[_THREADS])


@helper
def _sleep(control, address, worker, left):
    sleeper = _SLEEPERS + worker * 2 * _LINE
    fetch_add(control, _ASLEEP, 1)
    atomic_store(control, sleeper, 1)
    if not _calls(control, worker, atomic_load(control, _STAGE), left) and not atomic_load(control, _STOP):
        sem_wait(address + (sleeper + _LINE) * 8)
    atomic_store(control, sleeper, 0)
    fetch_add(control, _ASLEEP, -1)


@helper
def _next(control, address, worker, left):
    """Wait for a stage after the one that was left; 0 if the team is to end. Thread 0 waits for a job's end as well."""
    pauses, since = 0, np.int64(0)
    while True:
        stage = atomic_load(control, _STAGE)
        if _calls(control, worker, stage, left):
            return stage
        if atomic_load(control, _STOP) and worker:
            return np.int64(0)
        pauses += 1
        if pauses % _PAUSES:
            pause()
            continue
        now = nanoseconds()
        if since == 0:
            since = now
        elif now - since > (_BETWEEN_JOBS if _row_of(stage) == _END else PATIENCE):
            _sleep(control, address, worker, left)
            if worker == 0:
                control[_STALLED] += nanoseconds() - since
            since = np.int64(0)


@kernel(types.void(types.int64, types.int64))
def set_up(address, workers):
    atomic_store(i64(address), _STAGE, _END << _MEMBER_BITS)
    for worker in range(workers):
        sem_init(address + (_SLEEPERS + worker * 2 * _LINE + _LINE) * 8)


@kernel(types.void(types.int64))
def lead(address):
    """Thread 0: start the job that the control block describes, and take part in it until it is done."""
    control = i64(address)
    if control[_LENGTH] == 0:
        return
    job = (atomic_load(control, _STAGE) >> (_MEMBER_BITS + _ROW_BITS)) + 1 & ((1 << _JOB_BITS) - 1)
    stage = job << (_MEMBER_BITS + _ROW_BITS)
    atomic_store(control, _STAGE, stage + 1)
    _wake(control, address, control[_THREADS])
    left = _take_part(control, address, 0, stage)
    while True:
        stage = _next(control, address, 0, left)
        if _row_of(stage) == _END:
            return
        if compare_exchange(control, _STAGE, stage, stage + 1):
            left = _take_part(control, address, 0, stage)


@kernel(types.void(types.int64, types.int64))
def follow(address, worker):
    """Any other thread: take part in jobs, sleeping when none comes, until it is told to stop."""
    control, left = i64(address), np.int64(0)
    while True:
        stage = _next(control, address, worker, left)
        if not stage:
            return
        if compare_exchange(control, _STAGE, stage, stage + 1):
            left = _take_part(control, address, worker, stage)


@kernel(types.void(types.int64, types.int64))
def dismiss(address, workers):
    """Tell all threads to end."""
    control = i64(address)
    atomic_store(control, _STOP, 1)
    _wake(control, address, workers)


# What a team itself runs.
TEAM_KERNELS = (set_up, lead, follow, dismiss)


class Team:
    """`size` threads, the caller's among them. Whoever waits spins for a moment, then sleeps.

    A stage is done when its work is: nobody waits for a thread that is not at work in it, so one that is not running
    just now holds back the others only where it was stopped in the middle of a piece.
    """

    def __init__(self, size: int, cores: Sequence[frozenset[int]] = (), *, steady: bool = False) -> None:
        """`cores`: which cores each thread may run on, the caller's first; empty: any. steady: as many threads take
        part as are asked for, whether or not fewer would be faster.

        No more threads take part than there are cores, whatever the size: a thread that waits would hold the core
        that the one it waits for needs, and every operation would take a scheduler's turn or two.
        """
        if not 1 <= size < _MOST_THREADS:
            raise ValueError(f"a team of {size} threads")
        self.size = size
        self._steady = steady
        self._crews: dict[tuple[int, int], Crew] = {}
        self._most = min(size, len(frozenset().union(*cores) if cores else usable_cores()))
        memory = np.zeros(_SLEEPERS + (2 * size + 1) * _LINE, np.int64)
        self._control = memory[-memory.ctypes.data % 64 // 8 :]  # on a cache line's border
        address = self._control.ctypes.data
        set_up.call(address, size)
        work = follow.call
        for worker in range(1, self._most):
            where = cores[worker % len(cores)] if cores else None
            threading.Thread(
                target=_serve, args=(work, self._control, worker, where), name=f"powerinfer-{worker}", daemon=True
            ).start()
        if cores:
            pin_thread(cores[0])
        self._end = weakref.finalize(self, _dismiss, self._control, size)

    def run(self, program: Program, threads: int = 0) -> None:
        """Carry out a program with so many threads (0: all) at most: with as many as there are cores, or with fewer
        where that is faster (see `Crew`) and the team is not steady.
        """
        program[:, COUNTER] = 0
        control, most = self._control, min(threads or self.size, self._most)
        kind = len(program), most  # layers that are alike have programs of the same length
        crew = self._crews.get(kind) or self._crews.setdefault(kind, Crew(most))
        control[_THREADS], control[_STALLED] = most if self._steady else crew.threads, 0
        control[_PROGRAM], control[_LENGTH] = program.ctypes.data, len(program)
        start = time.perf_counter_ns()
        lead.call(control.ctypes.data)
        now = time.perf_counter_ns()
        crew.note(now - start, int(control[_STALLED]), now)

    def close(self) -> None:
        """End the threads."""
        self._end()


def _serve(work: Any, control: Program, worker: int, cores: frozenset[int] | None) -> None:
    if cores:
        with contextlib.suppress(OSError):  # anywhere, rather than awaited in vain
            pin_thread(cores)
    work(control.ctypes.data, worker)


def _dismiss(control: Program, size: int) -> None:
    dismiss.call(control.ctypes.data, size)
