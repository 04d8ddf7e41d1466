"""Texts go in as many groups as are fastest, and what is slower costs little."""

from collections.abc import Callable

import pytest

from powerinfer_cli.serving.slots.grouping import Grouping

ROUNDS = 3000


class Machines:
    """Steps in the order in which they begin pass all machines; cost: seconds of a pass over so many texts on each;
    sharing: times that where another is on its way.
    """

    def __init__(self, n: int, cost: Callable[[int], float]) -> None:
        self._free, self.cost, self.now, self.sharing = [0.0] * n, cost, 0.0, 1.0

    def step(self, n_texts: int) -> float:
        """When it ends that begins now."""
        at, together = self.now, self._free[-1] > self.now
        for i, free in enumerate(self._free):
            at = self._free[i] = max(at, free) + self.cost(n_texts) * (self.sharing if together else 1.0)
        return at


def written(machines: Machines, grouping: Grouping, n_texts: int, rounds: int = ROUNDS) -> tuple[float, int]:
    """Tokens a second of each text, and how many groups there were in the end."""
    begin, left, free, there = machines.now, rounds * n_texts, n_texts, list[tuple[float, int]]()
    while left > 0 or there:
        groups = grouping.groups([0] * n_texts)
        while left > 0 and free and len(there) < groups:
            size = min(free, -(-n_texts // groups))
            there.append((machines.step(size), size))
            free, left = free - size, left - size
        machines.now, size = there.pop(0)
        free += size
        grouping.ended([1] * size)
    return rounds / (machines.now - begin), grouping.fastest


def reading(n_texts: int) -> float:
    """The weights, for up to four texts; each further one costs half as much."""
    return 1.0 + 0.5 * max(0, n_texts - 4)


def each(n_texts: int) -> float:
    return 0.1 + n_texts


@pytest.mark.parametrize(
    ("n_machines", "n_texts", "cost", "best"),
    [(2, 4, reading, 1), (2, 8, reading, 2), (2, 4, each, 2), (4, 8, each, 4), (2, 1, each, 1), (3, 3, each, 3)],
)
def test_what_is_fastest_is_found(n_machines: int, n_texts: int, cost: Callable[[int], float], best: int) -> None:
    machines = Machines(n_machines, cost)
    speed, groups = written(machines, Grouping(n_machines, lambda: machines.now), n_texts)
    alone, _ = written(Machines(n_machines, cost), _fixed(1), n_texts)
    fixed, _ = written(Machines(n_machines, cost), _fixed(best), n_texts)
    assert groups == best
    assert speed >= 0.97 * alone
    assert speed >= 0.95 * fixed


def test_it_follows_what_becomes_faster() -> None:
    machines = Machines(2, reading)
    grouping = Grouping(2, lambda: machines.now)
    assert written(machines, grouping, 4)[1] == 1
    machines.cost = each  # contexts have become long
    assert written(machines, grouping, 4)[1] == 2
    machines.sharing = 3.0  # of one memory, say
    assert written(machines, grouping, 4)[1] == 1


def test_prompts_go_in_as_many_as_there_may_be() -> None:
    grouping = Grouping(3, lambda: 0.0)
    assert grouping.groups([0, 0, 40]) == 3
    assert grouping.groups([0, 0, 1]) == 1


def test_steps_with_prompts_are_not_timed() -> None:
    machines = Machines(2, each)
    grouping = Grouping(2, lambda: machines.now)
    for i in range(200):
        grouping.groups([0] * 4)
        grouping.ended([1, 1, 1, 1] if i % 5 else [1, 1, 1, 20])
    assert grouping.groups([0] * 4) == 1


class _Fixed(Grouping):
    def __init__(self, n: int) -> None:
        super().__init__(n, lambda: 0.0)
        self._n_fixed = n

    def groups(self, left: list[int]) -> int:
        return self._n_fixed


def _fixed(n: int) -> Grouping:
    return _Fixed(n)
