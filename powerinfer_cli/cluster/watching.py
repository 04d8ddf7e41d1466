"""Who is still there: every rank tells rank 0 each second that it is, and rank 0 tells them."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.beats import BEAT_S, SILENCE_S
from powerinfer_cli.cluster.messages import MOST_WORDS, Message, Op, receive, why, worded, words_of
from powerinfer_cli.cluster.rows import Asked, Rows
from powerinfer_cli.cluster.wires import Lost, Part, Wire
from powerinfer_cli.errors import PowerInferError

__all__ = ["Members", "Watch"]

NAMING_S = 3.0  # that a rank waits to be told by rank 0 who has gone, before it names whom it has lost itself
ENDING_S = 5.0
Floats = npt.NDArray[np.float32]


class Members:
    """At rank 0: the connections to all others, and what they reply. behind: to rank 1; before: from the last rank;
    most: bytes of a reply; `on_failure` is told once in what line it all has ended, by a thread of its own; ready: what
    was replied while ranks met.
    """

    def __init__(
        self,
        controls: dict[int, Wire],
        behind: Wire,
        before: Wire,
        most: int,
        on_failure: Callable[[str], None],
        ready: Mapping[int, Message] | None = None,
    ) -> None:
        self._controls, self._behind, self._on_failure = controls, behind, on_failure
        self.rows = Rows(before)
        self._replies: dict[int, SimpleQueue[Message | None]] = {rank: SimpleQueue() for rank in controls}
        for rank, message in (ready or {}).items():
            self._replies[rank].put(message)
        self._lock, self._ending, self._left, self.failure = threading.Lock(), False, False, ""
        self._most = most
        self._threads = [
            threading.Thread(target=self._listen, args=one, name=f"rank {one[0]}", daemon=True)
            for one in controls.items()
        ]
        for wire, thread in zip(controls.values(), self._threads, strict=True):
            wire.limit(SILENCE_S)
            thread.start()

    @property
    def ranks(self) -> tuple[int, ...]:
        """All but 0, in order."""
        return tuple(sorted(self._controls))

    def send(self, message: Message) -> None:
        """To the next rank, and by it to those behind. Raises PowerInferError: a rank has gone."""
        self.send_parts(*message.whole)

    def send_parts(self, *parts: Part) -> None:
        """The same of a message in parts, its header first."""
        try:
            self._behind.send(*parts, full=self._make_way)
        except Lost as error:
            raise self._lost(f"{self._behind.peer} {error}") from error

    def _make_way(self) -> None:
        """The ranks take no more just now: perhaps since the last one waits until its rows are received."""
        if self._behind.wait(self.rows.wire if self.rows else None):
            self._receive_rows()

    def take(self, asked: Asked) -> Floats:
        """Rows that were asked for. Raises PowerInferError: a rank has gone."""
        while asked.rows is None:
            self._receive_rows()
        return asked.rows

    def _receive_rows(self) -> None:
        try:
            self.rows.receive()
        except Lost as error:
            raise self._lost(f"{self.rows.wire.peer} {error}") from error

    def reply(self, rank: int, op: Op = Op.REPLY) -> Message:
        """The next of a rank. Raises PowerInferError: a rank has gone."""
        while self.rows:  # else the last rank may wait until they are received
            self._receive_rows()
        found = self._replies[rank].get()
        if found is None:
            self._replies[rank].put(None)  # for whoever asks next
            raise PowerInferError(self.failure)
        if found.op is not op:
            raise self._lost(f"rank {rank} sends what it was not asked for")
        return found

    def spoilt(self, rank: int, what: str) -> PowerInferError:
        """A rank has replied what cannot be: it ends all."""
        return self._lost(f"rank {rank} {what}")

    def leave(self, error: BaseException) -> None:
        """Tell all why rank 0 ends."""
        with self._lock:
            self._ending = self._left = True
        self._tell_gone(f"rank 0 has ended: {why(error)}")

    def end(self) -> None:
        """All ranks end, and that is no failure unless rank 0 has left."""
        with self._lock:
            self._ending = True
        with contextlib.suppress(Lost):  # where a rank has gone already
            if not self._left:
                Message(Op.END).send(self._behind)
            for thread in self._threads:
                thread.join(ENDING_S)
        for wire in self._controls.values():
            wire.end()
        self._behind.close()
        self.rows.wire.close()

    def _listen(self, rank: int, wire: Wire) -> None:
        try:
            while True:
                message = receive(wire, self._most)
                if message.op is Op.LOST and not self._ending:  # perhaps only the way between two others is cut
                    self._fail(words_of(message))
                if message.op is Op.LEAVING:
                    raise Lost(f"has ended: {words_of(message)}")
                if message.op not in (Op.BEAT, Op.LOST):
                    self._replies[rank].put(message)
        except Lost as error:
            if not self._ending:
                self._fail(f"rank {rank} ({wire.peer}) {error}")
        finally:
            wire.close()

    def _lost(self, line: str) -> PowerInferError:
        """What a failure of a connection is called: as its rank's thread says, if it does soon."""
        until = time.monotonic() + NAMING_S
        while not self.failure and time.monotonic() < until:
            time.sleep(0.01)
        self._fail(line)
        return PowerInferError(self.failure)

    def _tell_gone(self, line: str) -> None:
        for wire in self._controls.values():
            with contextlib.suppress(Lost, OSError):  # it may be closed
                wire.limit(BEAT_S)
                worded(Op.GONE, line).send(wire)

    def _fail(self, line: str) -> None:
        with self._lock:
            if self.failure:
                return
            self.failure = line
        self._tell_gone(line)
        self._behind.end()
        self.rows.wire.end()
        for replies in self._replies.values():
            replies.put(None)
        threading.Thread(target=self._on_failure, args=(line,), name="failure", daemon=True).start()


class Watch:
    """At another rank: whether rank 0 is there. wires: those that end with it, so that whoever waits there wakes up;
    `on_failure` is told then, as rank 0's, for who loads or computes waits nowhere.
    """

    def __init__(self, control: Wire, wires: Sequence[Wire], on_failure: Callable[[str], None]) -> None:
        self._control, self._wires, self._on_failure = control, wires, on_failure
        self._reason, self._known, self._ending = "", threading.Event(), False
        control.limit(SILENCE_S)
        threading.Thread(target=self._listen, daemon=True).start()

    def reply(self, message: Message) -> None:
        """To rank 0. Raises Lost."""
        message.send(self._control)

    def reason(self, own: str) -> str:
        """Why this rank has lost another: what rank 0 says, which is told its own words, or these."""
        self._tell(Op.LOST, own)
        said = self._reason if self._known.wait(NAMING_S) else own
        self._ending = True
        self._control.end()
        return said

    def leave(self, error: BaseException) -> None:
        """Tell rank 0 why this rank ends."""
        self._ending = True
        with contextlib.suppress(OSError):
            self._control.limit(BEAT_S)
        self._tell(Op.LEAVING, why(error))
        self._control.end()

    def _tell(self, op: Op, words: str) -> None:
        with contextlib.suppress(Lost, OSError):  # it may be closed
            self.reply(worded(op, words))

    def end(self) -> None:
        """As rank 0 has asked."""
        self._ending = True
        self._control.end()

    def _listen(self) -> None:
        try:
            while True:
                message = receive(self._control, MOST_WORDS)
                if message.op is Op.GONE:
                    self._reason = words_of(message)
                    break
        except Lost as error:
            self._reason = f"{self._control.peer} {error}"
        self._control.close()
        if self._ending:
            return
        self._known.set()
        for wire in self._wires:
            wire.end()
        self._on_failure(self._reason)
