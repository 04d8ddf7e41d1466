"""A team of threads that carries out a program: one operation after the other, each shared among all threads.

A program is an int64 array [n_ops, WIDTH]. Column 0 of a row is the address of the operation's kernel, column 1 counts
the pieces of work already taken, column 2 says whether all must have finished before the next row begins; the rest are
the operation's own numbers. Which thread does which piece is left to chance, so a kernel's result must not depend on
it: every number of the result is computed by one thread, in a fixed order.
"""

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.jit import helper, kernel, types
from powerinfer_cli.kernels.simd import (
    atomic_load,
    atomic_store,
    calling,
    fetch_add,
    i64,
    pause,
    sem_init,
    sem_post,
    sem_wait,
    yield_core,
)

__all__ = ["COUNTER", "FIRST", "OPERATION", "TEAM_KERNELS", "WAIT", "WIDTH", "Program", "Team", "take"]

Program: TypeAlias = npt.NDArray[np.int64]

WIDTH = 32
COUNTER, WAIT, FIRST = 1, 2, 3  # columns of a row; FIRST is the first of the operation's own
# op: address of the row; worker: this thread's number.
OPERATION = types.void(types.int64, types.int64)

# The control block, int64, each value on a cache line of its own; behind it a flag and a semaphore for each thread.
_LINE = 8
_JOB, _ARRIVED, _GENERATION, _THREADS, _PROGRAM, _LENGTH, _STOP, _FINISHED, _SLEEPERS = (_LINE * i for i in range(9))
_MOST_THREADS = 1 << 10  # a job's number is a multiple of this, plus how many threads take part
_SPINS, _SPINS_BEFORE_SLEEP = 4000, 20000

_call = calling(types.void, types.int64, types.int64)


@helper
def take(op):
    """Claim the next piece of an operation's work; its number."""
    return fetch_add(op, COUNTER, 1)


@helper
def _wait_a_little(spins):
    if spins > _SPINS:
        yield_core()
    else:
        pause()


@helper
def _meet(control):
    """Wait until all threads of the job are here."""
    generation = atomic_load(control, _GENERATION)
    if fetch_add(control, _ARRIVED, 1) == control[_THREADS] - 1:
        atomic_store(control, _ARRIVED, 0)
        fetch_add(control, _GENERATION, 1)
        return
    spins = 0
    while atomic_load(control, _GENERATION) == generation:
        spins += 1
        _wait_a_little(spins)


@helper
def _carry_out(control, worker):
    row = control[_PROGRAM]
    for _ in range(control[_LENGTH]):
        op = i64(row)
        _call(op[0], row, worker)
        if op[WAIT]:
            _meet(control)
        row += WIDTH * 8


@helper
def _wake(control, address, workers):
    for worker in range(1, workers):
        sleeper = _SLEEPERS + worker * 2 * _LINE
        if atomic_load(control, sleeper):
            atomic_store(control, sleeper, 0)
            sem_post(address + (sleeper + _LINE) * 8)


@kernel(types.void(types.int64, types.int64))
def set_up(address, workers):
    for worker in range(workers):
        sem_init(address + (_SLEEPERS + worker * 2 * _LINE + _LINE) * 8)


@kernel(types.void(types.int64))
def lead(address):
    """Thread 0: start the job that the control block describes, and take part in it until it is done."""
    control = i64(address)
    threads = control[_THREADS]
    atomic_store(control, _FINISHED, 0)
    atomic_store(control, _JOB, (control[_JOB] // _MOST_THREADS + 1) * _MOST_THREADS + threads)
    _wake(control, address, threads)
    _carry_out(control, 0)
    spins = 0
    while atomic_load(control, _FINISHED) < threads - 1:
        spins += 1
        _wait_a_little(spins)


@kernel(types.void(types.int64, types.int64))
def follow(address, worker):
    """Any other thread: take part in jobs, sleeping when none comes, until it is told to stop."""
    control = i64(address)
    sleeper = _SLEEPERS + worker * 2 * _LINE
    seen = 0
    spins = 0
    while True:
        job = atomic_load(control, _JOB)
        if atomic_load(control, _STOP):
            return
        if job == seen:
            spins += 1
            if spins < _SPINS_BEFORE_SLEEP:
                pause()
                continue
            atomic_store(control, sleeper, 1)
            if atomic_load(control, _JOB) == seen and not atomic_load(control, _STOP):
                sem_wait(address + (sleeper + _LINE) * 8)
            atomic_store(control, sleeper, 0)
        else:
            seen = job
            if worker < job % _MOST_THREADS:
                _carry_out(control, worker)
                fetch_add(control, _FINISHED, 1)
        spins = 0


@kernel(types.void(types.int64, types.int64))
def dismiss(address, workers):
    """Tell all threads to end."""
    control = i64(address)
    atomic_store(control, _STOP, 1)
    _wake(control, address, workers)


# What a team itself runs.
TEAM_KERNELS = (set_up, lead, follow, dismiss)


class Team:
    """`size` threads, the caller's among them. Others spin for a moment between jobs, then sleep."""

    def __init__(self, size: int, cores: Sequence[frozenset[int]] = ()) -> None:
        """`cores`: which cores each thread may run on, the caller's first; empty: any.

        No more threads take part than there are cores, whatever the size: a thread that waits would hold the core
        that the one it waits for needs, and every operation would take a scheduler's turn or two.
        """
        if not 1 <= size < _MOST_THREADS:
            raise ValueError(f"a team of {size} threads")
        self.size = size
        self._most = min(size, len(frozenset().union(*cores) if cores else _usable_cores()))
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
            _pin(cores[0])
        self._end = weakref.finalize(self, _dismiss, self._control, size)

    def run(self, program: Program, threads: int = 0) -> None:
        """Carry out a program with so many threads (0: all), or with as many as there are cores."""
        program[:, COUNTER] = 0
        control = self._control
        control[_THREADS] = min(threads or self.size, self._most)
        control[_PROGRAM], control[_LENGTH] = program.ctypes.data, len(program)
        lead.call(control.ctypes.data)

    def close(self) -> None:
        """End the threads."""
        self._end()


def _serve(work: Any, control: Program, worker: int, cores: frozenset[int] | None) -> None:
    if cores:
        _pin(cores)
    work(control.ctypes.data, worker)


def _dismiss(control: Program, size: int) -> None:
    dismiss.call(control.ctypes.data, size)


def _usable_cores() -> frozenset[int]:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _pin(cores: frozenset[int]) -> None:
    """Keep the calling thread on these cores, where the system has a way to say so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
