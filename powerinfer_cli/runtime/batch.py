"""The tokens of one forward pass, and whose they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Batch", "Segment"]


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a batch that continue one sequence.

    begin: the first one's place in the batch; n_past: tokens that the sequence had before.
    """

    sequence: int
    begin: int
    n_tokens: int
    n_past: int

    @property
    def end(self) -> int:
        """The place in the batch behind the last one."""
        return self.begin + self.n_tokens


@dataclass(frozen=True)
class Batch:
    """Tokens for one forward pass: ids int32 [T], in segments that follow each other and leave none out."""

    ids: npt.NDArray[np.int32]
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Sequence[int], int]]) -> "Batch":
        """Of (sequence, ids, n_past)."""
        segments, begin = [], 0
        for sequence, ids, n_past in parts:
            segments.append(Segment(sequence, begin, len(ids), n_past))
            begin += len(ids)
        return cls(np.concatenate([np.asarray(ids, np.int32) for _, ids, _ in parts]), tuple(segments))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Of each token in its own sequence, [T]."""
        return np.concatenate([np.arange(s.n_past, s.n_past + s.n_tokens) for s in self.segments])
