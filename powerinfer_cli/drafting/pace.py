"""How many tokens are worth proposing, by what was accepted of late, and by what it costs."""

from powerinfer_cli.drafting.costs import FURTHER, PassCosts

__all__ = ["Pace", "worth_trying"]

_FIRST_RATE = 0.7  # of tokens that are accepted, before anything is known
_FORGETTING = 0.85  # what a token counts for, once the next one is known
_LEAST_RATE, _MOST_RATE = 0.01, 0.98
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 256  # chances that are passed over


def worth_trying(cost: float) -> bool:
    """Whether drafts are likely to pay whose tokens cost so much, in passes of a single token. To find out that they do
    not takes reading the text, which is a good part of the time that such a draft could spare.
    """
    return FURTHER + cost < _FIRST_RATE


class Pace:
    """Of one kind of drafts of one sequence.

    As many tokens are proposed as give most tokens of text in a time. Where that is no more than without a draft,
    nothing is proposed for a while, ever longer, and then a draft again.
    """

    def __init__(self, costs: PassCosts, most: int) -> None:
        self._costs, self._most = costs, most
        self._rate = _FIRST_RATE
        self._pause, self._waiting = _FIRST_PAUSE, 0

    def wish(self) -> int:
        """Tokens to propose now, 0 while drafting pauses. To be asked once for each chance."""
        if self._waiting:
            self._waiting -= 1
            return 0
        return self._best()[0]

    def learn(self, accepted: int, rejected: bool) -> None:
        """So many tokens of a draft were accepted one after the other; then one was not, or nobody has asked."""
        for _ in range(accepted):
            self._rate = min(_MOST_RATE, self._rate * _FORGETTING + 1 - _FORGETTING)
        if rejected:
            self._rate = max(_LEAST_RATE, self._rate * _FORGETTING)
        if accepted:
            self._pause = _FIRST_PAUSE
        if self._best()[1] <= 1:
            self._waiting = self._pause
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    def _best(self) -> tuple[int, float]:
        """The best number of tokens for a draft, and its speed: tokens of text for the time of a pass over one."""
        passes, proposing = self._costs.passes, self._costs.proposing
        best, fastest, chance, text = 1, 0.0, 1.0, 1.0
        for n in range(1, self._most + 1):
            chance *= self._rate
            text += chance
            speed = text / (passes[1 + n] + n * proposing)
            if speed > fastest:
                best, fastest = n, speed
        return best, fastest
