"""What proposes tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["Draft", "Drafter", "Wish"]

Wish: TypeAlias = Callable[[int], int]
"""How many tokens of a kind of draft are worth verifying now, for one sequence."""


@dataclass(frozen=True)
class Draft:
    """Tokens that may follow. kind: drafts of one kind are accepted alike, so that each has a pace of its own."""

    ids: Sequence[int]
    kind: int = 0


class Drafter(Protocol):
    """Proposals decide how fast a text is written, never what is written."""

    cost: float
    """Of a proposed token, in passes of a single token through the model."""

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        """What may follow the texts of some sequences. None for those it knows nothing of; an empty one where finding
        that out has cost something.
        """
        ...

    def forget(self, sequence: int, n: int) -> None:
        """A sequence's text is another one behind its first n tokens."""
        ...

    def close(self) -> None:
        """No more is wanted of it."""
        ...
