"""How many tokens are worth proposing, by what was accepted of late."""

import math

__all__ = ["Pace", "worth_trying"]

_VERIFYING = 0.12  # what a further token of a step costs, in passes of a single token
_FIRST_RATE = 0.7  # of tokens that are accepted, before anything is known
_FORGETTING = 0.85  # what a token counts for, once the next one is known
_LEAST_RATE, _MOST_RATE = 0.01, 0.98
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 256  # chances that are passed over


def worth_trying(cost: float) -> bool:
    """Whether drafts are likely to pay whose tokens cost so much, in passes of a single token. To find out that they do
    not takes reading the text, which is a good part of the time that such a draft could spare.
    """
    return _VERIFYING + cost < _FIRST_RATE


class Pace:
    """Of one kind of drafts of one sequence.

    A further token pays where the chance that all up to it are accepted is more than what it costs, in passes of a
    single token. Where not even the first one does, nothing is proposed for a while, ever longer, and then one token.
    """

    def __init__(self, cost: float, most: int) -> None:
        """cost: of proposing a token, in passes of a single token."""
        self._cost, self._most = min(_VERIFYING + cost, 0.95), most
        self._rate = _FIRST_RATE
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
