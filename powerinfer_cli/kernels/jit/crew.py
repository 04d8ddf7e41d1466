"""How many of a team's threads take part in jobs of a kind: fewer while that is measured to be faster.

On a busy machine a thread is stopped now and then in the middle of a piece of work, and the others wait for it. Short
jobs can then take longer with two threads than with one. Results do not depend on how many there are.
"""

__all__ = ["Crew"]

_WATCH = 50_000_000  # nanoseconds of work after which stalls are weighed
_STALLED = 0.1  # share of time from which a trial is worth its cost
_TRIAL, _LEAST_PAIRS = 60_000_000, 3  # how long two numbers are compared, job by job in turn
_SOONEST, _LATEST = 500_000_000, 8_000_000_000  # until the next trial; doubled each time that nothing changes
_COST = 10  # times what the trial took, at least


class Crew:
    """`wanted` threads at most. `threads` is how many to use for the next job; `note` says how it went."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._best = wanted
        self._other = 0  # in a trial: what is compared with the best
        self._worked = self._stalled = 0
        self._spent, self._jobs = [0, 0], [0, 0]  # of a trial, with the best and with the other
        self._pause, self._next_trial = _SOONEST, 0

    @property
    def threads(self) -> int:
        return self._other if self._other and self._jobs[1] < self._jobs[0] else self._best

    def note(self, took: int, stalled: int, now: int) -> None:
        """A job took so many nanoseconds, for so many of which the caller's thread slept until another was done."""
        if self._other:
            self._compare(took, now)
            return
        self._worked += took
        self._stalled += stalled
        if self._worked < _WATCH or now < self._next_trial:
            return
        if self._stalled > _STALLED * self._worked:
            self._other = self._best // 2
        elif self._best < self.wanted:
            self._other = min(2 * self._best, self.wanted)
        self._worked = self._stalled = 0

    def _compare(self, took: int, now: int) -> None:
        which = int(self._jobs[1] < self._jobs[0])
        self._spent[which] += took
        self._jobs[which] += 1
        pairs = self._jobs[1]
        if pairs < _LEAST_PAIRS or pairs < self._jobs[0] or sum(self._spent) < _TRIAL:
            return
        better = self._spent[1] < self._spent[0]
        self._pause = _SOONEST if better else min(2 * self._pause, _LATEST)
        if better:
            self._best = self._other
        self._next_trial = now + max(self._pause, _COST * sum(self._spent))
        self._other, self._spent, self._jobs = 0, [0, 0], [0, 0]
        self._worked = self._stalled = 0
