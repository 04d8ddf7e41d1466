"""What is left to do, from what was declared and from the rates that are measured."""

import pytest

from solver.schedule import Schedule


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_is_what_was_declared_until_rates_are_known() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    assert schedule.shown().left is None
    schedule.declare({"one": 10, "other": 30})
    assert schedule.shown().left == 40
    schedule.progress("one", 0, 2)
    clock.now = 10
    schedule.progress("one", 1, 2)  # half as fast as was said
    shown = schedule.shown()
    assert (shown.what, shown.left) == ("one 50%", 40)
    assert shown.share == pytest.approx(0.2)
    schedule.progress("other", 0, 5)  # so the first is over
    assert schedule.shown().left == 30


def test_a_share_never_falls_though_the_work_grows() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    schedule.declare({"one": 10})
    schedule.progress("one", 0, 2)
    clock.now = 5
    schedule.progress("one", 1, 2)
    before = schedule.shown().share
    schedule.declare({"other": 100})
    assert schedule.shown().share == before
    assert schedule.shown().left == 105


def test_the_first_step_does_not_overthrow_what_was_expected() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    schedule.declare({"one": 100})
    clock.now = 20  # compiling, before the first step
    schedule.progress("one", 0, 100)
    clock.now = 26
    schedule.progress("one", 1, 100)  # by its own rate 594 s
    left = schedule.shown().left
    assert left is not None
    assert left < 130


def test_what_is_resumed_takes_its_share_of_what_was_expected() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    schedule.declare({"one": 100})
    schedule.progress("one", 80, 100)
    assert schedule.shown().left == pytest.approx(20)


def test_what_is_done_again_takes_as_long_as_it_did() -> None:
    """And so does what was done behind it, but not what was not needed."""
    clock = Clock()
    schedule = Schedule(clock)
    schedule.declare({"one": 10, "idle": 5, "other": 10})
    schedule.progress("one", 0, 2)
    clock.now = 20
    schedule.progress("one", 2, 2)
    schedule.progress("other", 0, 2)
    clock.now = 50
    schedule.progress("other", 2, 2)
    assert schedule.shown().left == 0
    schedule.progress("other", 2, 2)
    assert schedule.shown().left == 0
    schedule.progress("one", 0, 2)
    assert schedule.shown().left == 50
    assert schedule.shown().what == "one 0%"


def test_what_was_passed_over_may_come_all_the_same() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    schedule.declare({"one": 10, "other": 10})
    schedule.progress("other", 0, 2)  # so the first is not needed
    assert schedule.shown().left == 10
    schedule.progress("one", 0, 2)
    assert schedule.shown().left == 20
    clock.now = 5
    schedule.progress("one", 1, 2)
    assert schedule.shown().left == 10  # it is the other that was begun 5 s ago
