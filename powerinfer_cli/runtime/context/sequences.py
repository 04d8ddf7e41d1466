"""Which tokens each sequence of an engine has, and the pages that hold them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import PageTable

__all__ = ["ContextFull", "Sequences", "common_prefix"]

COMPARED = 256  # ids at a time


class ContextFull(PowerInferError):
    """More tokens than the KV cache holds."""


def _full(n_tokens: int, n_ctx: int) -> ContextFull:
    return ContextFull(
        f"{n_tokens} tokens do not fit the context of {n_ctx}: shorten the prompt, or choose a larger one (-c, n_ctx)"
    )


class Sequences:
    """`ids`: of each sequence, in order."""

    def __init__(self, pages: PageTable, n_vocab: int) -> None:
        self.pages, self._n_vocab = pages, n_vocab
        self.ids: list[list[int]] = [[] for _ in range(pages.n_sequences)]

    def check(self, parts: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Can (sequence, ids) be appended? Raises ContextFull, or PowerInferError for ids that are none."""
        for sequence, ids in parts:
            self._check_ids(ids)
            if len(ids) > self.pages.room(sequence):
                raise _full(len(self.ids[sequence]) + len(ids), self.pages.n_ctx_sequence)
        total = self.pages.n_used + sum(len(ids) for _, ids in parts)
        if total > self.pages.n_ctx:
            raise _full(total, self.pages.n_ctx)

    def batch(
        self,
        parts: Sequence[tuple[int, Sequence[int]]],
        stepwise: bool = False,
        hidden: npt.NDArray[np.float32] | None = None,
        counted: Sequence[int] = (),
        asked: Sequence[int] = (),
    ) -> Batch:
        """The forward pass that appends (sequence, ids); its pages are taken, its ids not yet noted."""
        held = [(sequence, ids, len(self.ids[sequence])) for sequence, ids in parts]
        found = Batch.of(held, stepwise, hidden, counted, asked)
        for sequence, ids in parts:
            self.pages.extend(sequence, len(self.ids[sequence]) + len(ids))
        return found

    def take(self, sequence: int, ids: Sequence[int]) -> None:
        """Pages for a sequence that is to be `ids`, whatever it is. Raises as `check` does, and takes none then."""
        self._check_ids(ids)
        held = len(self.ids[sequence])
        if len(ids) > held + self.pages.room(sequence):
            raise _full(len(ids), self.pages.n_ctx_sequence)
        self.pages.resize(sequence, max(held, len(ids)))

    def become(self, sequence: int, ids: Sequence[int], begin: int) -> None:
        """A sequence is `ids` now, whose pages were taken and written; those of windows from position `begin` on."""
        self.ids[sequence] = list(ids)
        if self.pages.windowed is not None:
            self.pages.windowed.become(sequence, begin)

    def note(self, parts: Sequence[tuple[int, Sequence[int]]]) -> None:
        """The forward pass is done."""
        for sequence, ids in parts:
            self.ids[sequence] += ids

    def give_back(self) -> None:
        """Free the pages of what was never noted, after a forward pass that failed."""
        for sequence, ids in enumerate(self.ids):
            self.pages.resize(sequence, len(ids))

    def _check_ids(self, ids: Sequence[int]) -> None:
        bad = next((i for i in ids if not 0 <= i < self._n_vocab), None)
        if bad is not None:
            raise PowerInferError(f"token id {bad} is not in the vocabulary of {self._n_vocab}")

    def can_shift(self, sequence: int, n_keep: int, n_discard: int) -> bool:
        """Whether windows would find what they need once [n_keep, n_keep + n_discard) is dropped."""
        windowed, n_past = self.pages.windowed, len(self.ids[sequence])
        if windowed is None:
            return True
        return windowed.begin_behind(sequence, n_past, n_keep, n_discard) <= windowed.first(n_past - n_discard)

    def shift(self, sequence: int, n_keep: int, n_discard: int) -> None:
        """[n_keep, n_keep + n_discard) is dropped, the rest has moved down."""
        held, windowed = self.ids[sequence], self.pages.windowed
        if windowed is not None:
            windowed.become(sequence, windowed.begin_behind(sequence, len(held), n_keep, n_discard))
        del held[n_keep : n_keep + n_discard]
        self.pages.resize(sequence, len(held))

    def truncate(self, sequence: int, n: int) -> int:
        """Forget all but a sequence's first n tokens, or all. How many are left."""
        held, windowed = self.ids[sequence], self.pages.windowed
        if not 0 <= n <= len(held):
            raise ValueError(f"cannot keep {n} of {len(held)} tokens")
        left = self.pages.left(sequence, n)
        if left == 0 and windowed is not None:
            windowed.become(sequence, 0)
        del held[left:]
        self.pages.resize(sequence, left)
        return left


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids the two begin with together."""
    n = min(len(a), len(b))
    for start in range(0, n, COMPARED):
        stop = min(start + COMPARED, n)
        if list(a[start:stop]) != list(b[start:stop]):
            return next(i for i in range(start, stop) if a[i] != b[i])
    return n
