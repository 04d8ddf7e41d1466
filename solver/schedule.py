"""What work is left, in seconds: declared in advance, corrected by the rates that are measured while it is done."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Schedule", "Shown"]

TRUSTED = 0.25  # share of a piece of work from which on its own rate alone counts


@dataclass(frozen=True)
class Shown:
    """share: of the whole, 0..1, never falling. left: seconds; None while nothing is declared."""

    what: str
    share: float
    left: float | None


@dataclass
class _Piece:
    """expected: seconds of all of it. began, base: when it was first heard of, and how much of it was done by then.

    over: when it ended; None: not yet.
    """

    expected: float
    began: float | None = None
    base: float = 0.0
    done: float = 0.0
    over: float | None = None

    def tell(self, share: float, now: float) -> None:
        if self.began is None:
            self.began, self.base = now, share
        self.done = share
        if share >= 1:
            self.end(now)

    def end(self, now: float) -> None:
        self.over = now if self.over is None else self.over

    def again(self) -> "_Piece":
        """The same work anew: it takes as long as it did, or was to."""
        took = self.expected if self.over is None or self.began is None else self.over - self.began
        return _Piece(took)

    def left(self, now: float) -> float:
        if self.over is not None:
            return 0.0
        if self.began is None:
            return self.expected
        expected, passed, made = self.expected * (1 - self.done), now - self.began, self.done - self.base
        if made <= 0:
            return max(expected - passed, expected / 20)
        trust = min(1.0, made / (TRUSTED * (1 - self.base)))
        return trust * passed * (1 - self.done) / made + (1 - trust) * expected


class Schedule:
    """Pieces of work in their order, by the words that progress is told with. Other words are shown, and count as
    time that passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._pieces: dict[str, _Piece] = {}
        self._what = ""
        self._share = 0.0

    def declare(self, seconds: Mapping[str, float]) -> None:
        """What is to come, in this order, behind what was declared before; the same words again are work again."""
        for what, expected in seconds.items():
            self._pieces.pop(what, None)
            self._pieces[what] = _Piece(expected)

    def progress(self, what: str, done: int, total: int) -> None:
        """So much of a piece is done. What stands before it is over. A piece that was over is work again, and so is
        what was done behind it.
        """
        self._what = f"{what} {done / total:.0%}" if total > 1 else what
        names, now = list(self._pieces), self._clock()
        if what not in names or (self._pieces[what].over is not None and done >= total):
            return
        at = names.index(what)
        if self._pieces[what].over is not None:
            for name in names[at:]:
                piece = self._pieces[name]
                if name == what or (piece.over is not None and piece.began is not None):  # else it was not needed
                    self._pieces[name] = piece.again()
        for name in names[:at]:
            self._pieces[name].end(now)
        self._pieces[what].tell(done / max(1, total), now)

    def shown(self) -> Shown:
        """Now."""
        now = self._clock()
        if not self._pieces:
            return Shown(self._what, 0.0, None)
        left = sum(piece.left(now) for piece in self._pieces.values())
        passed = now - self._begin
        if left or passed:
            self._share = max(self._share, min(1.0, passed / (passed + left)))
        return Shown(self._what, self._share, left)
