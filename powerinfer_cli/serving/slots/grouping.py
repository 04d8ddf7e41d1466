"""Into how many groups the texts of a server go whose layers are on several machines: whatever is fastest.

Groups on their way together keep all machines busy, but each reads the weights for itself: where a pass over a few
texts costs what one text does, one group of all is faster. What holds is tried, now and then again. Results do not
depend on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from powerinfer_cli.model.ranges import group_counts

__all__ = ["Grouping"]

ROUNDS = 6  # of each text's tokens, that are timed
SETTLING = 2  # before them, while steps of other groups are still on their way
AGAIN, SELDOM = 128, 2048  # rounds until what was slower is tried again: twice as many each time, up to so many
BETTER = 1.02  # times as fast as what is used, to be used instead


@dataclass
class _Choice:
    """Of some texts. speeds: texts a second, by the number of groups; rests: rounds until one is tried again."""

    used: int = 1
    speeds: dict[int, float] = field(default_factory=dict)
    rests: dict[int, int] = field(default_factory=dict)
    waits: dict[int, int] = field(default_factory=dict)

    def note(self, groups: int, speed: float) -> None:
        """So fast were so many groups."""
        self.speeds[groups] = speed
        if groups == self.used:
            return
        if speed > BETTER * self.speeds[self.used]:
            self.rests[self.used] = self.waits[self.used] = AGAIN
            self.used = groups
        else:
            self.waits[groups] = min(SELDOM, 2 * self.waits.get(groups, AGAIN // 2))
            self.rests[groups] = self.waits[groups]

    def next(self, candidates: Sequence[int]) -> int:
        """Which number of groups is timed next."""
        for groups in candidates:
            if groups != self.used:
                self.rests[groups] = self.rests.get(groups, 0) - ROUNDS
                if self.used in self.speeds and self.rests[groups] <= 0:
                    return groups
        return self.used


class Grouping:
    """most: groups at once; clock: in seconds."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._choices: dict[int, _Choice] = {}
        self._n = 0  # texts
        self._groups = self._steps = self._texts = 0
        self._since = 0.0

    def groups(self, left: Sequence[int]) -> int:
        """How many there are now, of texts of whose prompts so many tokens are left. Where one is more than its last
        token, as many as there may be: prompts cost by their tokens.
        """
        if self._most == 1 or any(n > 1 for n in left):
            return self._most
        if len(left) != self._n:
            self._n = len(left)
            self._try(self._choice.used)
        return self._groups

    def ended(self, n_tokens: Sequence[int]) -> None:
        """A step has ended, which carried so many of each of its texts. One with more than single ones is not timed,
        nor what is on its way with it.
        """
        if any(n > 1 for n in n_tokens):
            self._try(self._groups)
            return
        self._steps += 1
        self._texts += len(n_tokens)
        if self._steps == SETTLING * self._groups:
            self._texts, self._since = 0, self._clock()
        elif self._steps == (SETTLING + ROUNDS) * self._groups:
            choice = self._choice
            choice.note(self._groups, self._texts / max(1e-9, self._clock() - self._since))
            self._try(choice.next(group_counts(min(self._most, self._n))))

    @property
    def fastest(self) -> int:
        """Groups, as far as is known; others are tried meanwhile."""
        return self._choice.used

    @property
    def _choice(self) -> _Choice:
        return self._choices.setdefault(self._n, _Choice())

    def _try(self, groups: int) -> None:
        self._groups, self._steps = max(1, groups), 0
