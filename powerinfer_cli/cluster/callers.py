"""Who calls at a door: each proves that it is a rank in a thread of its own, so that nobody who is none holds it up."""

import socket
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType

from powerinfer_cli.cluster.messages import Message, receive
from powerinfer_cli.cluster.secret import prove_called
from powerinfer_cli.cluster.wires import Lost, Wire

__all__ = ["PROOF_S", "Callers"]

PROOF_S = 5.0  # for a proof and the words behind it, in all; whoever needs longer is no rank
TICK_S = 0.05
MOST_PROVING = 64  # at the same time


class Callers:
    """door: listens; most: bytes of a caller's first message; note: is told who was refused. Left: whoever has not been
    taken is sent away.
    """

    def __init__(self, door: socket.socket, key: bytes, most: int, note: Callable[[str], None]) -> None:
        self._door, self._key, self._most, self._note = door, key, most, note
        self._heard: SimpleQueue[tuple[Wire, Message | Lost]] = SimpleQueue()
        self._proving: dict[Wire, threading.Thread] = {}
        door.settimeout(TICK_S)

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for wire in self._proving:
            wire.end()
        for thread in self._proving.values():
            thread.join()
        while not self._heard.empty():
            self._heard.get()[0].close()

    def next(self) -> tuple[Wire, Message] | None:
        """Who has proved to be a rank, and the first that it says. None: nobody for a moment."""
        self._accept()
        try:
            wire, said = self._heard.get_nowait()
        except Empty:
            return None
        del self._proving[wire]
        if isinstance(said, Message):
            return wire, said
        self.refuse(wire, str(said))
        return None

    def refuse(self, wire: Wire, why: str) -> None:
        self._note(f"warning: who called from {wire.peer} {why}: refused")
        wire.close()

    def _accept(self) -> None:
        if len(self._proving) >= MOST_PROVING:
            time.sleep(TICK_S)
            return
        try:
            sock, address = self._door.accept()
            wire = Wire(sock, address[0])
        except OSError:  # also: who called has gone again
            return
        thread = threading.Thread(target=self._hear, args=(wire,), name=f"proof of {wire.peer}", daemon=True)
        self._proving[wire] = thread
        thread.start()

    def _hear(self, wire: Wire) -> None:
        wire.limit_all(PROOF_S)
        try:
            prove_called(wire, self._key)
            self._heard.put((wire, receive(wire, self._most)))
        except Lost as error:
            self._heard.put((wire, error))
            wire.end()
