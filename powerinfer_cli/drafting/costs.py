"""What passes over some tokens take on this machine, and proposals, as they were of late."""

from powerinfer_cli.kernels.few import FEW

__all__ = ["FURTHER", "PassCosts"]

FURTHER = 0.12  # what a further token of a pass costs, in passes over one, before anything is known
_FIRST, _LATER = 3, 9  # times that say something: the least of them, as what disturbs them only adds to it


class _Times:
    """What takes time again and again; None until something is known."""

    def __init__(self) -> None:
        self.known: float | None = None
        self._new: list[float] = []

    def note(self, seconds: float) -> bool:
        """Whether more is known now."""
        self._new.append(seconds)
        if len(self._new) < (_FIRST if self.known is None else _LATER):
            return False
        self.known, self._new = min(self._new), []
        return True


class PassCosts:
    """In passes over one token."""

    def __init__(self, proposing: float = 0.0, *, measured: bool = True) -> None:
        """proposing: what a proposed token costs, before that is known. measured: what is noted counts."""
        self.proposing = proposing
        self.passes = [1 + FURTHER * (n - 1) for n in range(FEW + 1)]
        """By their number of tokens. What is not known lies between its neighbours, or behind the last one as usual."""
        self._measured = measured
        self._times = {n: _Times() for n in range(1, FEW + 1)}
        self._proposals = _Times()

    def note_pass(self, n: int, seconds: float) -> None:
        """One over n tokens; over more than FEW it says nothing."""
        if self._measured and n in self._times and self._times[n].note(seconds):
            self._learn()

    def note_proposal(self, n: int, seconds: float) -> None:
        """Of n tokens."""
        if self._measured and n and self._proposals.note(seconds / n):
            self._learn()

    def _learn(self) -> None:
        one = self._times[1].known
        if one is None:
            return
        if self._proposals.known is not None:
            self.proposing = self._proposals.known / one
        known = {n: times.known / one for n, times in self._times.items() if times.known is not None}
        for n in range(1, FEW + 1):
            below = max(m for m in known if m <= n)
            above = min((m for m in known if m >= n), default=None)
            if above is None:
                found = known[below] + FURTHER * (n - below)
            else:
                share = (n - below) / max(1, above - below)
                found = known[below] * (1 - share) + known[above] * share
            self.passes[n] = min(found, n)  # as many passes would do as well
