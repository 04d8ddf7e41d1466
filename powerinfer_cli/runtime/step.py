"""What one step of an engine carries: tokens of several sequences at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Piece", "Wanted"]


class Wanted(Enum):
    """What is to be told of a piece's tokens: nothing, the logits [n_vocab] that follow the last, the logits
    [T, n_vocab] that follow each, or the hidden states [T, n_embd] behind the last norm.
    """

    NOTHING = "nothing"
    LAST = "last"
    ALL = "all"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class Piece:
    """Tokens to append to one sequence of the engine's. ids: at least one."""

    sequence: int
    ids: Sequence[int]
    wanted: Wanted = Wanted.LAST
