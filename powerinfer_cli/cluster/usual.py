"""How long what is waited for takes."""

__all__ = ["Usual"]

MOST_KINDS = 64
SOONER, LATER = 1 / 2, 1 / 16


class Usual:
    """By kind of what is waited for: a time that few have been shorter than, of late."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def of(self, kind: int) -> float:
        """Seconds; 0.0: not known."""
        return self._seconds.get(kind, 0.0)

    def note(self, kind: int, seconds: float) -> None:
        """It has taken so long."""
        known = self._seconds.get(kind)
        if known is None:
            if len(self._seconds) < MOST_KINDS:
                self._seconds[kind] = seconds
            return
        self._seconds[kind] = known + (seconds - known) * (SOONER if seconds < known else LATER)
