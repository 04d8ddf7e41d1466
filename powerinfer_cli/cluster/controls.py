"""The connections between rank 0 and each other rank while they find their neighbours."""

import time

from powerinfer_cli.cluster.beats import SILENCE_S, beat
from powerinfer_cli.cluster.hello import MOST_BYTES
from powerinfer_cli.cluster.messages import Message, Op, coming_op, receive, words_of
from powerinfer_cli.cluster.seats import Seat
from powerinfer_cli.cluster.wires import Lost, Said, Wire

__all__ = ["Controls"]


class Controls:
    """wires: by rank, of rank 0 all others, of these rank 0; who is there is told from now on. ready: who has loaded
    its layers already, with what it said.
    """

    def __init__(self, seat: Seat, wires: dict[int, Wire]) -> None:
        self.wires, self.ready = wires, dict[int, Message]()
        self._seat, self._heard = seat, dict.fromkeys(wires, time.monotonic())
        for wire in wires.values():
            wire.limit(SILENCE_S)
        beat(list(wires.values()))

    def look(self) -> None:
        """Receive what has come. Raises Said: a rank has ended or is silent, or says that another has."""
        for rank, wire in self.wires.items():
            try:
                self._receive(rank, wire)
                if time.monotonic() - self._heard[rank] > SILENCE_S:
                    raise Lost("is silent")
            except Said:
                raise
            except Lost as error:
                raise Said(f"{self._seat.name(rank)} ({wire.peer}) {error}") from error

    def _receive(self, rank: int, wire: Wire) -> None:
        while (op := coming_op(wire)) is not None:
            message = receive(wire, MOST_BYTES)
            self._heard[rank] = time.monotonic()
            match op:
                case Op.LEAVING:
                    raise Lost(f"has ended: {words_of(message)}")
                case Op.GONE | Op.LOST:
                    raise Said(words_of(message))
                case Op.READY if rank and rank not in self.ready:
                    self.ready[rank] = message
                case Op.BEAT:
                    pass
                case _:
                    raise Lost("sends what it was not asked for")
