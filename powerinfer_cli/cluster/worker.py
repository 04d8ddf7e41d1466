"""Another rank than 0: carries its layers out for whatever comes from the rank before, until it is told to end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.borders import (
    Bounds,
    check_pages,
    dropped_x,
    read_changes,
    read_step,
    receive_x,
    x_header,
    x_part,
)
from powerinfer_cli.cluster.kept_states import StateShelf
from powerinfer_cli.cluster.messages import Message, Op, header, receive
from powerinfer_cli.cluster.named import packed, unpacked
from powerinfer_cli.cluster.usual import Usual
from powerinfer_cli.cluster.watching import Watch
from powerinfer_cli.cluster.wires import Lost, Part, Wire
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model.ranges import LayerRange
from powerinfer_cli.runtime.backend import Backend, ForeseeingBackend, Hidden
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Held, PageTable
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["Worker"]

Named = dict[str, npt.NDArray[Any]]


@dataclass
class Worker:
    """backend: of the layers of this rank; pages: the table as far as rank 0 has told; most: bytes of a message;
    behind: of the last rank, to rank 0, which is told rows; shelf: states that it keeps for rank 0.
    """

    backend: Backend
    layers: LayerRange
    last: bool
    pages: PageTable
    bounds: Bounds
    stats: SparsityStats
    before: Wire
    behind: Wire
    watch: Watch
    most: int
    shelf: StateShelf
    _n: int = 0  # tokens of the last step

    def __post_init__(self) -> None:
        self._usual = Usual()
        self._at = self.before  # whose fault it is where something is lost

    def run(self) -> None:
        """Raises PowerInferError: a rank has gone, or says what it must not."""
        try:
            while True:
                message = receive(self.before, self.most)
                if not self.last:  # first, so that all are busy
                    self._send(*message.whole)
                if message.op is Op.END:
                    self.watch.end()
                    return
                self._carry_out(message)
        except Lost as error:
            raise PowerInferError(self.watch.reason(f"{self._at.peer} {error}")) from error
        except BaseException as error:
            self.watch.leave(error)
            raise
        finally:
            for wire in (self.before, self.behind):
                wire.close()

    def _send(self, *parts: Part) -> None:
        self._at = self.behind
        self.behind.send(*parts)
        self._at = self.before

    def _carry_out(self, message: Message) -> None:
        match message.op:
            case Op.STEP:
                self._step(read_step(message, self.bounds, self.pages))
            case Op.LOGITS | Op.HIDDEN:
                if self.last:
                    self._reply_rows(message)
            case Op.SHIFT:
                self._shift(message)
            case Op.READ_CELLS:
                held, _ = self._held(message)
                self._reply_named(dict(self.backend.read_cells(held)))
            case Op.WRITE_CELLS:
                held, rest = self._held(message)
                self.backend.write_cells(held, self._own(unpacked(rest)))
            case Op.READ_STATES:
                states = self.shelf.get(message.numbers[0])
                self._reply_named({str(number): state for number, state in states.items()})
            case Op.KEEP_STATES:
                _, number, n_dropped, *_ = message.numbers
                self.shelf.drop(_numbers(message.payload, n_dropped).tolist())
                self.shelf.keep(number, self.backend.read_states(self._sequence(message)))
            case Op.PUT_STATES:
                self.backend.write_states(self._sequence(message), self.shelf.get(message.numbers[1]))
            case Op.WRITE_STATES:
                own = self._own(unpacked(message.payload))
                self.backend.write_states(self._sequence(message), {int(name): state for name, state in own.items()})
            case (
                Op.X
                | Op.ROWS
                | Op.END
                | Op.HELLO
                | Op.PLAN
                | Op.READY
                | Op.REPLY
                | Op.BEAT
                | Op.GONE
                | Op.LEAVING
                | Op.LOST
            ):
                raise Lost("sends what no rank sends here")
            case never:
                assert_never(never)

    def _step(self, batch: Batch) -> None:
        carry_out = self._prepared(batch)
        self._n = len(batch)
        head = x_header(self._n, self.bounds)
        begin = time.monotonic()
        x = receive_x(self.before, self._n, self.bounds, self._usual.of(self._n))
        self._usual.note(self._n, time.monotonic() - begin)
        if x is None:
            if not self.last:
                self._send(*dropped_x(self._n, self.bounds).whole)
            return
        carry_out(x)
        if not self.last:
            x = self.backend.hidden_at(slice(0, self._n))
            self._send(head, x_part(x, self.bounds))
        elif batch.asked:
            self._tell(self.backend.logits_at(batch.asked))

    def _prepared(self, batch: Batch) -> Callable[[Hidden], None]:
        """What is left to be done once x comes."""
        if isinstance(self.backend, ForeseeingBackend):
            self.stats.trials.begin(batch)
            return self.backend.foresee(batch)

        def forward(x: Hidden) -> None:
            whole = replace(batch, hidden=x)
            self.stats.trials.begin(whole)
            self.backend.forward(whole)

        return forward

    def _reply_rows(self, message: Message) -> None:
        if message.op is Op.HIDDEN:
            begin, end, *_ = message.numbers
            if not 0 <= begin <= end <= self._n:
                raise Lost("asks for tokens that are none")
            found = self.backend.hidden_at(slice(begin, end))
        else:
            rows = _numbers(message.payload, message.numbers[0])
            if not len(rows) or (np.diff(rows) <= 0).any() or rows[0] < 0 or rows[-1] >= self._n:
                raise Lost("asks for tokens that are none")
            found = self.backend.logits_at(rows.tolist())
        self._tell(found)

    def _tell(self, rows: Hidden) -> None:
        """Rank 0, as it has asked."""
        self._send(header(Op.ROWS, (), 4 * rows.size), np.ascontiguousarray(rows, "<f4").data.cast("B"))

    def _shift(self, message: Message) -> None:
        sequence, n_past, n_keep, n_discard, begin, _ = message.numbers
        read_changes(self.pages, message.payload)
        if not (min(n_keep, n_discard) >= 0 and n_keep + n_discard <= n_past and 0 <= begin <= n_past):
            raise Lost("asks for a shift that is none")
        check_pages(self.pages, sequence, n_past)
        if self.pages.windowed is not None:
            self.pages.windowed.become(sequence, begin)
        if not self.backend.shift(sequence, n_past, n_keep, n_discard):
            raise PowerInferError("this rank cannot shift what the others can")

    def _held(self, message: Message) -> tuple[Held, memoryview]:
        """The cells that a message names, and what is behind them. Raises Lost: there are no such cells."""
        n_whole, n_windowed, *_ = message.numbers
        sent, extent = memoryview(message.payload), self.pages.extent
        if min(n_whole, n_windowed) < 0 or 8 * (n_whole + n_windowed) > len(sent):
            raise Lost("names cells that are none")
        whole = _numbers(sent[: 8 * n_whole], n_whole)
        windowed = _numbers(sent[8 * n_whole : 8 * (n_whole + n_windowed)], n_windowed)
        for cells, window in ((whole, None), (windowed, extent.window)):
            if len(cells) and (cells.min() < 0 or cells.max() >= extent.n_cells(window)):
                raise Lost("names cells that are none")
        return Held(whole, windowed), sent[8 * (n_whole + n_windowed) :]

    def _sequence(self, message: Message) -> int:
        if not 0 <= message.numbers[0] < self.pages.n_sequences:
            raise Lost("names a sequence that is none")
        return message.numbers[0]

    def _own(self, arrays: Named) -> Named:
        """Of the layers of this rank, by their numbers here."""
        found = {}
        for name, array in arrays.items():
            number, dot, part = name.partition(".")
            if not number.isdecimal():
                raise Lost("names what is no layer")
            if self.layers.begin <= int(number) < self.layers.end:
                found[f"{int(number) - self.layers.begin}{dot}{part}"] = array
        return found

    def _reply_named(self, arrays: Named) -> None:
        self.watch.reply(Message(Op.REPLY, (), packed(arrays)))


def _numbers(sent: bytes | bytearray | memoryview, n: int) -> npt.NDArray[np.int64]:
    """int64 [n]. Raises Lost: it is not so many."""
    if len(sent) != 8 * n:
        raise Lost("sends what is of another size")
    return np.frombuffer(sent, "<i8").astype(np.int64)
