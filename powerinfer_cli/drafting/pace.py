"""How many tokens are worth proposing, by what was accepted of late."""

import math

__all__ = ["Pace"]

_FORGETTING = 0.85  # what a token counts for, once the next one is known
_LEAST_RATE, _MOST_RATE = 0.01, 0.98
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 256  # chances that are passed over


class Pace:
    """Of one kind of drafts of one sequence.

    A further token pays where the chance that all up to it are accepted is more than what it costs, in passes of a
    single token. Where not even the first one does, nothing is proposed for a while, ever longer, and then one token.
    """

    def __init__(self, cost: float, most: int) -> None:
        self._cost, self._most = min(max(cost, 0.01), 0.95), most
        self._rate = 0.7
        self._pause, self._waiting = _FIRST_PAUSE, 0

    def wish(self) -> int:
        """Tokens to propose now, 0 while drafting pauses. To be asked once for each chance."""
        if self._waiting:
            self._waiting -= 1
            return 0
        return max(1, min(self._most, int(math.log(self._cost) / math.log(self._rate))))

    def learn(self, accepted: int, rejected: bool) -> None:
        """So many tokens of a draft were accepted one after the other; then one was not, or nobody has asked."""
        for _ in range(accepted):
            self._rate = min(_MOST_RATE, self._rate * _FORGETTING + 1 - _FORGETTING)
        if rejected:
            self._rate = max(_LEAST_RATE, self._rate * _FORGETTING)
        if accepted:
            self._pause = _FIRST_PAUSE
        if self._rate < self._cost:
            self._waiting = self._pause
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
