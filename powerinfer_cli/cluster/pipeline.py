"""Rank 0's backend: its own layers here, and word to the other ranks of what to do with theirs.

A step is sent on as soon as the layers here are done with it, and what is asked of it comes when it is there. So the
batches of a long prompt, and steps of several groups of texts, are in work on all ranks at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.borders import Bounds, PageChanges, dropped_x, step_message, x_header, x_part
from powerinfer_cli.cluster.kept_states import KeptNumbers, KeptStates, LayerStates
from powerinfer_cli.cluster.messages import Message, Op
from powerinfer_cli.cluster.named import packed, unpacked
from powerinfer_cli.cluster.rows import Asked
from powerinfer_cli.cluster.watching import Members
from powerinfer_cli.cluster.wires import Lost
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.model import Model
from powerinfer_cli.model.ranges import LayerRange
from powerinfer_cli.runtime.backend import Backend, Hidden, Logits, Watch, WatchRoutes
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Cells, Held, PageTable
from powerinfer_cli.runtime.context.saved import saved_part
from powerinfer_cli.runtime.options import EngineOptions

__all__ = ["Pipeline", "reply_bytes"]

ONE_CELL = Held(np.zeros(1, np.int64), np.zeros(1, np.int64))
DIRECTORY = 1 << 20  # bytes of names and shapes

Named = Mapping[str, npt.NDArray[Any]]


def reply_bytes(model: Model, bounds: Bounds, cache: int) -> int:
    """Of the largest reply of a rank. cache: bytes of all that is kept of texts."""
    rows = 4 * max(model.config.n_vocab, model.config.n_embd) * bounds.most_tokens
    return max(rows, cache + DIRECTORY)


class Pipeline:
    """ranges: of all ranks, in order; own: the backend of the first."""

    def __init__(
        self,
        own: Backend,
        members: Members,
        model: Model,
        ranges: Sequence[LayerRange],
        pages: PageTable,
        bounds: Bounds,
    ) -> None:
        self._own, self._members, self._config, self._bounds = own, members, model.config, bounds
        self._pages, self._changes = pages, PageChanges(pages)
        self._begins = [one.begin for one in ranges]
        self._windows = [layer.attention.window for layer in model.layers]
        self._kept = KeptNumbers()
        self._n = 0  # tokens of the last step
        self._told: tuple[tuple[int, ...], Asked] | None = None  # of the last step: which logits it was told to tell
        self._parts: dict[str, npt.NDArray[Any]] | None = None  # of one cell: which there are

    def forward(self, batch: Batch) -> None:
        """The others are told at once what is to come, so that they are prepared when x does."""
        changes = self._changes.take(segment.sequence for segment in batch.segments)
        self._members.send(step_message(batch, changes, self._bounds))
        self._told = None
        if batch.asked:
            self._told = batch.asked, self._members.rows.ask(len(batch.asked), self._config.n_vocab)
        self._n = len(batch)
        head = x_header(self._n, self._bounds)
        try:
            self._own.forward(batch)
            x = self._own.hidden_at(slice(0, self._n))
        except BaseException:
            self._drop(batch)
            raise
        self._members.send_parts(head, x_part(x, self._bounds))

    def _drop(self, batch: Batch) -> None:
        """The others wait for an x that will not come."""
        if batch.asked:
            self._members.rows.withdraw()
            self._told = None
        self._members.send(dropped_x(len(batch), self._bounds))

    def logits_at(self, rows: Sequence[int]) -> Logits:
        return self.ask_logits(rows)()

    def hidden_at(self, rows: slice) -> Hidden:
        return self.ask_hidden(rows)()

    @property
    def n_groups(self) -> int:
        """One a rank."""
        return len(self._begins)

    def ask_logits(self, rows: Sequence[int]) -> Callable[[], Logits]:
        if self._told is not None and self._told[0] == tuple(rows):
            return partial(self._members.take, self._told[1])
        asked = np.array(rows, "<i8")
        return self._ask(Message(Op.LOGITS, (len(asked),), (asked.data.cast("B"),)), len(asked), self._config.n_vocab)

    def ask_hidden(self, rows: slice) -> Callable[[], Hidden]:
        begin, end, _ = rows.indices(self._n)
        return self._ask(Message(Op.HIDDEN, (begin, end)), end - begin, self._config.n_embd)

    def _ask(self, message: Message, n: int, width: int) -> Callable[[], npt.NDArray[np.float32]]:
        self._members.send(message)
        return partial(self._members.take, self._members.rows.ask(n, width))

    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> bool:
        if not self._own.shift(sequence, n_past, n_keep, n_discard):
            return False
        windowed, changes = self._pages.windowed, self._changes.take([sequence])
        begin = 0 if windowed is None else windowed.begin(sequence)
        numbers = sequence, n_past, n_keep, n_discard, begin
        self._members.send(Message(Op.SHIFT, numbers, (changes.data.cast("B"),) if changes.size else ()))
        return True

    def read_cells(self, held: Held) -> dict[str, npt.NDArray[Any]]:
        found = dict(self._own.read_cells(held))
        self._members.send(_cells_message(Op.READ_CELLS, held))
        for begin, theirs in self._named():
            found |= {_renumbered(name, begin): part for name, part in theirs.items()}
        return found

    def write_cells(self, held: Held, stored: Named) -> None:
        """Nothing is written anywhere where anything is wrong."""
        if self._parts is None:
            self._parts = self.read_cells(ONE_CELL)
        for name, part in self._parts.items():
            cells = held.of(self._windows[int(name.partition(".")[0])])
            saved_part(stored, name, (len(cells), *part.shape[1:]), part.dtype)
        if unknown := stored.keys() - self._parts.keys():
            raise PowerInferError(f"a saved context has {min(unknown)}, which this model has not")
        ends = self._begins[1]
        self._own.write_cells(held, {name: part for name, part in stored.items() if _number(name) < ends})
        behind = {name: part for name, part in stored.items() if _number(name) >= ends}
        self._members.send(_cells_message(Op.WRITE_CELLS, held, behind))

    def read_states(self, sequence: int) -> KeptStates:
        """Each rank keeps its own, until they are read."""
        dropped = np.array(self._kept.dropped(), "<i8")
        found = self._kept.keep(self._own.read_states(sequence), self._fetch_states)
        parts = (dropped.data.cast("B"),) if len(dropped) else ()
        self._members.send(Message(Op.KEEP_STATES, (sequence, found.number, len(dropped)), parts))
        return found

    def _fetch_states(self, number: int) -> LayerStates:
        self._members.send(Message(Op.READ_STATES, (number,)))
        return {begin + _number(name): part for begin, theirs in self._named() for name, part in theirs.items()}

    def write_states(self, sequence: int, states: LayerStates) -> None:
        if isinstance(states, KeptStates):
            self._own.write_states(sequence, states.own)
            self._members.send(Message(Op.PUT_STATES, (sequence, states.number)))
            return
        ends = self._begins[1]
        self._own.write_states(sequence, {number: state for number, state in states.items() if number < ends})
        behind = {str(number): state for number, state in states.items() if number >= ends}
        self._members.send(Message(Op.WRITE_STATES, (sequence,), packed(behind)))

    def _named(self) -> Iterator[tuple[int, Named]]:
        """The first layer of each other rank, and what it replies."""
        for rank, begin in zip(self._members.ranks, self._begins[1:], strict=True):
            try:
                yield begin, unpacked(self._members.reply(rank).payload)
            except (Lost, ValueError) as error:
                raise self._members.spoilt(rank, str(error)) from error

    def record(self, batch: Batch, watch: Watch) -> None:
        raise _whole()

    def record_routes(self, batch: Batch, watch: WatchRoutes) -> None:
        raise _whole()

    def packed_ends(self) -> Mapping[str, WeightRows]:
        return self._own.packed_ends()

    def use_threads(self, options: EngineOptions) -> None:
        """Of this rank."""
        self._own.use_threads(options)

    def experts(self) -> Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]:
        return self._own.experts()

    def close(self) -> None:
        self._members.end()
        self._own.close()


def _whole() -> PowerInferError:
    return PowerInferError("profiling needs a model's layers on one machine")


def _number(name: str) -> int:
    """Of the layer."""
    return int(name.partition(".")[0])


def _renumbered(name: str, begin: int) -> str:
    number, dot, part = name.partition(".")
    return f"{begin + int(number)}{dot}{part}"


def _cells_message(op: Op, held: Held, stored: Named | None = None) -> Message:
    cells: list[Cells] = [held.whole, held.windowed]
    parts = [np.ascontiguousarray(one, "<i8").data.cast("B") for one in cells if one.size]
    return Message(op, tuple(map(len, cells)), (*parts, *(packed(stored) if stored is not None else ())))
