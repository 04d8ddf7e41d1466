"""The tokens of one forward pass, and whose they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.few import FEW

__all__ = ["Batch", "BatchKind", "Segment"]


class BatchKind(Enum):
    """One token; a few, each of which gets what it would get alone; or anything else."""

    ONE = "one"
    FEW = "few"
    MANY = "many"


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a batch that continue one sequence.

    begin: the first one's place in the batch; n_past: tokens that the sequence had before. counted: the first so many
    were read before, and taken back with others.
    """

    sequence: int
    begin: int
    n_tokens: int
    n_past: int
    counted: int = 0

    @property
    def end(self) -> int:
        """The place in the batch behind the last one."""
        return self.begin + self.n_tokens


@dataclass(frozen=True)
class Batch:
    """Tokens for one forward pass: ids int32 [T], in segments that follow each other and leave none out.

    stepwise: each token gets what it would get if they came one at a time; FEW at most. hidden [T, n_embd]: what comes
    with tokens where a model's embedding reads that as well. asked: the tokens behind which logits will be asked for,
    ascending, and nothing else before that; empty where that is not so. Only who has them sent by another machine
    needs to know.
    """

    ids: npt.NDArray[np.int32]
    segments: tuple[Segment, ...]
    stepwise: bool = False
    hidden: npt.NDArray[np.float32] | None = None
    asked: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        parts: Sequence[tuple[int, Sequence[int], int]],
        stepwise: bool = False,
        hidden: npt.NDArray[np.float32] | None = None,
        counted: Sequence[int] = (),
        asked: Sequence[int] = (),
    ) -> "Batch":
        """Of (sequence, ids, n_past). counted: of each, as a segment's."""
        segments, begin = [], 0
        for (sequence, ids, n_past), known in zip(parts, counted or [0] * len(parts), strict=True):
            segments.append(Segment(sequence, begin, len(ids), n_past, known))
            begin += len(ids)
        together = np.concatenate([np.asarray(ids, np.int32) for _, ids, _ in parts])
        return cls(together, tuple(segments), stepwise, hidden, tuple(asked))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def kind(self) -> BatchKind:
        """Which of an executor's forms carries it out."""
        if len(self) == 1:
            return BatchKind.ONE
        apart = self.stepwise or len(self) == len(self.segments)
        return BatchKind.FEW if apart and len(self) <= FEW else BatchKind.MANY

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Of each token in its own sequence, [T]."""
        return np.concatenate([np.arange(s.n_past, s.n_past + s.n_tokens) for s in self.segments])
