"""A crew: fewer threads while jobs are seen to be faster with fewer, all of them again when that is over."""

from collections.abc import Callable

import pytest

from powerinfer_cli.kernels.jit.crew import Crew

MS = 1_000_000
Machine = Callable[[int], tuple[float, float]]  # threads -> milliseconds of a job, and how many of them are stalls


class Clock:
    """Runs jobs of a crew on a machine that is told."""

    def __init__(self, wanted: int) -> None:
        self.crew, self.now = Crew(wanted), 0

    def run(self, machine: Machine, seconds: float) -> dict[int, float]:
        """The share of time that was spent with each number of threads."""
        end, spent = self.now + int(seconds * 1000 * MS), dict.fromkeys(range(1, self.crew.wanted + 1), 0)
        while self.now < end:
            threads = self.crew.threads
            took, stalled = (int(ms * MS) for ms in machine(threads))
            self.now += took
            spent[threads] += took
            self.crew.note(took, stalled, self.now)
        return {threads: time / sum(spent.values()) for threads, time in spent.items()}


def quiet(threads: int) -> tuple[float, float]:
    return 0.4 / threads, 0.0


def busy(threads: int) -> tuple[float, float]:
    """Whoever works with others waits for them most of the time."""
    return (0.4, 0.0) if threads == 1 else (1.5 * threads, 1.0 * threads)


def shared(threads: int) -> tuple[float, float]:
    """There are stalls, but two threads are still faster than one."""
    return (0.4, 0.0) if threads == 1 else (0.3, 0.1)


@pytest.mark.parametrize("wanted", [1, 2, 3, 8])
def test_all_work_on_a_quiet_machine(wanted: int) -> None:
    assert Clock(wanted).run(quiet, 5)[wanted] == 1.0


def test_stalls_that_are_rare_change_nothing() -> None:
    jobs = iter(range(10**9))
    assert Clock(2).run(lambda threads: (3.2, 3.0) if next(jobs) % 500 == 0 else (0.2, 0.0), 5)[2] == 1.0


@pytest.mark.parametrize("wanted", [2, 8])
def test_one_works_alone_while_that_is_faster(wanted: int) -> None:
    clock = Clock(wanted)
    clock.run(busy, 2)
    assert clock.run(busy, 20)[1] > 0.97


def test_all_work_again_when_the_machine_is_quiet_again() -> None:
    clock = Clock(8)
    clock.run(busy, 10)
    clock.run(quiet, 20)
    assert clock.run(quiet, 5)[8] == 1.0


def test_stalls_that_cost_less_than_the_others_bring_are_borne() -> None:
    clock = Clock(2)
    clock.run(shared, 2)
    assert clock.run(shared, 20)[2] > 0.97


def test_long_jobs_are_not_many_in_a_trial() -> None:
    clock = Clock(2)
    assert clock.run(lambda threads: (100.0, 0.0) if threads == 1 else (200.0, 150.0), 20)[1] > 0.8
