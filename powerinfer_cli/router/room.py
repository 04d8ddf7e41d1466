"""Whether one more model fits: so many at most, in the memory that there is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from powerinfer_cli.router.division import STEPS, Curve, division
from powerinfer_cli.router.entries import Entry
from powerinfer_cli.system.memory import available_memory

__all__ = ["Room", "Share"]

Share = tuple[int, ...]

OVERHEAD = 256 << 20  # bytes of a process beside its weights: Python, torch, a small KV cache
GIB = 1 << 30


@dataclass(frozen=True)
class Room:
    """most: models at once, 0 for any number. budgets: bytes of each GPU that all share; empty for no limit of ours.

    mapped: weights stay in their files, so that memory need not hold them. available: bytes of memory that are free.
    """

    most: int = 4
    budgets: tuple[int, ...] = ()
    mapped: bool = False
    available: Callable[[], int] = available_memory

    def holds(self, entry: Entry, n_others: int, coming: int) -> bool:
        """Whether a model can be loaded beside others. coming: bytes that models which are loading have yet to take."""
        if self.most and n_others >= self.most:
            return False
        return self.mapped or not entry.size or self.needed(entry) + coming <= self.available()

    def could_hold(self, entry: Entry, others: Mapping[Entry, int]) -> bool:
        """Whether it can help to stop others. others: bytes of memory of each now; it may be about to take more."""
        return bool(others) and self.holds(entry, 0, -sum(max(self.needed(one), n) for one, n in others.items()))

    @staticmethod
    def needed(entry: Entry) -> int:
        """Bytes of memory, about."""
        return entry.size + OVERHEAD

    def refusal(self, entry: Entry) -> str:
        """Why a model does not fit, though nothing else is loaded."""
        needed, there = self.needed(entry) / GIB, self.available() / GIB
        return (
            f"model '{entry.name}' needs {needed:.1f} GiB of memory, and {there:.1f} are free: "
            "take a smaller type of it, or start the server with --no-repack"
        )

    def share(self, entry: Entry, given: Sequence[Share], planned: Share | None = None) -> Share:
        """Bytes of each GPU for one more model, of what others have left: as planned; else what it can use of it, in
        equal parts.
        """
        left = self.left(given)
        if planned is not None:
            return tuple(map(min, planned, left))
        part = min(1.0, self.needed(entry) / sum(left)) if sum(left) else 0.0
        return tuple(int(part * one) for one in left)

    def left(self, given: Sequence[Share]) -> Share:
        """Bytes of each GPU that nobody has."""
        return tuple(budget - sum(parts) for budget, *parts in zip(self.budgets, *given, strict=True))

    def planned(self, curves: Mapping[str, Curve]) -> dict[str, Share]:
        """By name, the bytes of each GPU that each of these models is to have beside the others."""
        parts = division(list(curves.values()))
        return {
            name: tuple(budget * n // STEPS for budget in self.budgets) for name, n in zip(curves, parts, strict=True)
        }
