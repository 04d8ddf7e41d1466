"""What ranks say to each other: a header of 64 bytes, and numbers behind it whose size the receiver bounds."""

import struct
from dataclasses import dataclass
from enum import IntEnum

from powerinfer_cli.cluster.wires import Lost, Wire

__all__ = ["Message", "Op", "receive"]

HEADER = struct.Struct("<4sI6qQ")  # magic, operation, numbers, bytes behind
MAGIC = b"PIX1"
N_NUMBERS = 6


class Op(IntEnum):
    """Down the ranks: from FORWARD to PUT_STATES. Between each and rank 0: the others."""

    FORWARD = 1
    LOGITS = 2
    HIDDEN = 3
    SHIFT = 4
    READ_CELLS = 5
    WRITE_CELLS = 6
    READ_STATES = 7
    WRITE_STATES = 8
    END = 9
    KEEP_STATES = 10
    PUT_STATES = 11
    HELLO = 16
    PLAN = 17
    READY = 18
    REPLY = 19
    BEAT = 20
    GONE = 21
    LEAVING = 22


KNOWN = frozenset(op.value for op in Op)


@dataclass(frozen=True)
class Message:
    """numbers: N_NUMBERS at most, zeros where there are fewer; parts: what follows, as bytes."""

    op: Op
    numbers: tuple[int, ...] = ()
    parts: tuple[bytes | bytearray | memoryview, ...] = ()

    @property
    def payload(self) -> bytes | bytearray | memoryview:
        """Of what was received, all that followed."""
        return self.parts[0] if self.parts else b""

    def send(self, wire: Wire) -> None:
        """Raises Lost."""
        numbers = (*self.numbers, *(0,) * (N_NUMBERS - len(self.numbers)))
        size = sum(memoryview(part).nbytes for part in self.parts)
        wire.send(HEADER.pack(MAGIC, self.op, *numbers, size), *self.parts)


def receive(wire: Wire, most: int) -> Message:
    """The next, with `most` bytes behind the header. Raises Lost: also for what is no message."""
    magic, op, *numbers, size = HEADER.unpack(wire.receive(HEADER.size))
    if magic != MAGIC or op not in KNOWN or size > most:
        raise Lost("sends what is no message of a rank")
    return Message(Op(op), tuple(numbers), (wire.receive(size),) if size else ())
