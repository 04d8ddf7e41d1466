"""Rank 0's backend: its own layers here, and word to the other ranks of what to do with theirs.

A step is sent on as soon as the layers here are done with it, and what is asked of it comes when it is there. So the
batches of a long prompt, and steps of several groups of texts, are in work on all ranks at once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.borders import Bounds, PageChanges, forward_message
from powerinfer_cli.cluster.kept_states import KeptNumbers, KeptStates, LayerStates
from powerinfer_cli.cluster.messages import Message, Op
from powerinfer_cli.cluster.named import packed, unpacked
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


@dataclass
class _Asked:
    """Rows [n, width] of the last rank's; None: they have not come yet."""

    n: int
    width: int
    rows: npt.NDArray[np.float32] | None = None


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
        self._asked: deque[_Asked] = deque()  # what has not come yet, in the order in which it will
        self._parts: dict[str, npt.NDArray[Any]] | None = None  # of one cell: which there are

    def forward(self, batch: Batch) -> None:
        self._own.forward(batch)
        self._n = len(batch)
        changes = self._changes.take(segment.sequence for segment in batch.segments)
        x = self._own.hidden_at(slice(0, self._n))
        self._members.send(forward_message(batch, changes, x, self._bounds))

    def logits_at(self, rows: Sequence[int]) -> Logits:
        return self.ask_logits(rows)()

    def hidden_at(self, rows: slice) -> Hidden:
        return self.ask_hidden(rows)()

    @property
    def n_groups(self) -> int:
        """One a rank."""
        return len(self._begins)

    def ask_logits(self, rows: Sequence[int]) -> Callable[[], Logits]:
        asked = np.array(rows, "<i8")
        return self._ask(
            Message(Op.LOGITS, (len(asked),), (asked.data.cast("B"),)), _Asked(len(asked), self._config.n_vocab)
        )

    def ask_hidden(self, rows: slice) -> Callable[[], Hidden]:
        begin, end, _ = rows.indices(self._n)
        return self._ask(Message(Op.HIDDEN, (begin, end)), _Asked(end - begin, self._config.n_embd))

    def _ask(self, message: Message, asked: _Asked) -> Callable[[], npt.NDArray[np.float32]]:
        self._members.send(message)
        self._asked.append(asked)
        return partial(self._take, asked)

    def _take(self, asked: _Asked) -> npt.NDArray[np.float32]:
        while asked.rows is None:
            self._receive()
        return asked.rows

    def _receive(self) -> None:
        """The last rank's reply to what was asked first. Where none comes, it stays asked for."""
        asked, last = self._asked[0], self._members.ranks[-1]
        payload = self._members.reply(last).payload
        if len(payload) != 4 * asked.n * asked.width:
            raise self._members.spoilt(last, "replies with another size")
        rows = np.frombuffer(payload, "<f4").reshape(asked.n, asked.width)
        asked.rows = rows.astype(np.float32, copy=False)
        self._asked.popleft()

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
        while self._asked:
            self._receive()
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
