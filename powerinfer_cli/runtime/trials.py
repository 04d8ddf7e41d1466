"""Tokens on trial: those behind the first of a stepwise piece were proposed, and count once they are accepted."""

from collections.abc import Callable

from powerinfer_cli.runtime.batch import Batch

__all__ = ["Trials"]

Count = Callable[[int], None]  # a token, by its place in the batch


class Trials:
    """What the last pass of each sequence has to count of its tokens."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._waiting: dict[int, list[tuple[int, Count]]] = {}

    def begin(self, batch: Batch) -> None:
        """A pass begins: what was proposed before is accepted, or forgotten."""
        self._batch = batch
        for segment in batch.segments:
            self._waiting[segment.sequence] = []

    def count(self, batch: Batch, count: Count) -> None:
        """Call it now for those tokens that are sure, in order; for each of the others when it is accepted, if the pass
        is the last one. Those that were counted before are left out.
        """
        for segment in batch.segments:
            begin = segment.begin + segment.counted
            for row in range(begin, min(begin + 1, segment.end) if batch.stepwise else segment.end):
                count(row)
            if batch.stepwise and batch is self._batch:
                self._waiting[segment.sequence].append((begin, count))

    def accept(self, sequence: int, n: int) -> None:
        """A sequence's n-th proposed token, from 1 on, is right."""
        for begin, count in self._waiting[sequence]:
            count(begin + n)
