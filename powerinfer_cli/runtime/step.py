"""What one step of an engine carries: tokens of several sequences at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.runtime.batch import Segment

__all__ = ["Answer", "Piece", "Wanted", "ask", "asked_rows", "hidden_of", "passes"]

Floats: TypeAlias = npt.NDArray[np.float32]
Answer: TypeAlias = Floats | None
Told: TypeAlias = Callable[[], Floats]


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
    """Tokens to append to one sequence of the engine's. ids: at least one.

    stepwise: as if they came one at a time, to the bit where single tokens are; FEW at most. Those behind the first
    are on trial: statistics and heat have them once they are accepted (`SparsityStats.trials`). hidden [T, n_embd]:
    what comes with them where the model's embedding reads that as well. counted: the first so many were read before,
    counted, and taken back with others.
    """

    sequence: int
    ids: Sequence[int]
    wanted: Wanted = Wanted.LAST
    stepwise: bool = False
    hidden: Floats | None = None
    counted: int = 0

    @property
    def is_stepwise(self) -> bool:
        return self.stepwise or len(self.ids) == 1


def passes(pieces: Sequence[Piece]) -> list[list[int]]:
    """Which pieces go through the layers together: stepwise ones, FEW tokens at most, and all others.

    So a sequence's tokens are always multiplied in the same way, and its results do not depend on the others.
    """
    found: list[list[int]] = []
    room = 0
    for i, piece in enumerate(pieces):
        if not piece.is_stepwise:
            continue
        if len(piece.ids) > room:
            found.append([])
            room = FEW
        found[-1].append(i)
        room -= len(piece.ids)
    others = [i for i, piece in enumerate(pieces) if not piece.is_stepwise]
    return [*found, *([others] if others else [])]


def hidden_of(pieces: Sequence[Piece]) -> Floats | None:
    """What comes with the tokens of all pieces, or of none."""
    given = [piece.hidden for piece in pieces if piece.hidden is not None]
    return np.concatenate(given) if given else None


def asked_rows(pieces: Sequence[Piece]) -> list[int]:
    """The tokens of a pass over these pieces behind which logits are wanted, ascending."""
    rows, end = list[int](), 0
    for piece in pieces:
        end += len(piece.ids)
        rows += range(end - _n_asked(piece), end)
    return rows


def ask(
    pieces: Sequence[Piece],
    segments: Sequence[Segment],
    ask_hidden: Callable[[slice], Told],
    ask_logits: Callable[[Sequence[int]], Told],
) -> Callable[[], list[Answer]]:
    """What each piece wants to be told of its segment, once it is called. The head is asked once, for all rows
    together.
    """
    hidden: list[Told | None] = []
    rows = asked_rows(pieces)
    for piece, segment in zip(pieces, segments, strict=True):
        wanted = piece.wanted is Wanted.HIDDEN
        hidden.append(ask_hidden(slice(segment.begin, segment.end)) if wanted else None)
    return partial(_answers, pieces, segments, hidden, ask_logits(rows) if rows else None)


def _answers(
    pieces: Sequence[Piece], segments: Sequence[Segment], hidden: Sequence[Told | None], logits_told: Told | None
) -> list[Answer]:
    found: list[Answer] = [None if one is None else one() for one in hidden]
    logits, at = np.empty((0, 0), np.float32) if logits_told is None else logits_told(), 0
    for i, (piece, segment) in enumerate(zip(pieces, segments, strict=True)):
        if piece.wanted is Wanted.LAST:
            found[i] = logits[at]
            at += 1
        elif piece.wanted is Wanted.ALL:
            found[i] = logits[at : at + segment.n_tokens]
            at += segment.n_tokens
    return found


def _n_asked(piece: Piece) -> int:
    """About so many of a piece's last tokens the head is asked."""
    match piece.wanted:
        case Wanted.ALL:
            return len(piece.ids)
        case Wanted.LAST:
            return 1
        case Wanted.NOTHING | Wanted.HIDDEN:
            return 0
    assert_never(piece.wanted)
