"""What ranks say to each other: a header of 64 bytes, and numbers behind it whose size the receiver bounds."""

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from powerinfer_cli.cluster.wires import Lost, Part, Wire
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.printable import printable

__all__ = [
    "DROPPED",
    "MOST_WORDS",
    "Coming",
    "Message",
    "Op",
    "coming_op",
    "header",
    "receive",
    "why",
    "worded",
    "words_of",
]

HEADER = struct.Struct("<4sI6qQ")  # magic, operation, numbers, bytes behind
MAGIC = b"PIX2"
N_NUMBERS = 6
MOST_WORDS = 2000  # bytes of a line for people
DROPPED = 1  # the first number of what is sent in place of something that has failed


class Op(IntEnum):
    """Down the ranks: from STEP to X; ROWS from the last one to rank 0. Between each and rank 0: the others."""

    STEP = 1
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
    X = 12
    ROWS = 13
    HELLO = 16
    PLAN = 17
    READY = 18
    REPLY = 19
    BEAT = 20
    GONE = 21
    LEAVING = 22
    LOST = 23


KNOWN = frozenset(op.value for op in Op)


@dataclass(frozen=True)
class Message:
    """numbers: N_NUMBERS at most, zeros where there are fewer; parts: what follows, bytes or views of bytes."""

    op: Op
    numbers: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def payload(self) -> Part:
        """Of what was received, all that followed."""
        return self.parts[0] if self.parts else b""

    @property
    def whole(self) -> tuple[Part, ...]:
        """As it is sent."""
        return header(self.op, self.numbers, sum(map(len, self.parts))), *self.parts

    def send(self, wire: Wire) -> None:
        """Raises Lost."""
        wire.send(*self.whole)


def header(op: Op, numbers: tuple[int, ...], size: int) -> bytes:
    """Of a message with so many bytes behind it."""
    return HEADER.pack(MAGIC, op, *numbers, *(0,) * (N_NUMBERS - len(numbers)), size)


def receive(wire: Wire, most: int) -> Message:
    """The next, with `most` bytes behind the header. Raises Lost: also for what is no message."""
    magic, op, *numbers, size = HEADER.unpack(wire.receive(HEADER.size))
    if magic != MAGIC or op not in KNOWN or size > most:
        raise Lost("sends what is no message of a rank")
    return Message(Op(op), tuple(numbers), (wire.receive(size),) if size else ())


def coming_op(wire: Wire) -> Op | None:
    """Of the message that is received next, if it has come. Raises Lost: it is none, or the end."""
    found = wire.peek(HEADER.size)
    if len(found) < HEADER.size:
        return None
    magic, op, *_ = HEADER.unpack(found)
    if magic != MAGIC or op not in KNOWN:
        raise Lost("sends what is no message of a rank")
    return Op(op)


def worded(op: Op, words: str) -> Message:
    """A message of a line for people."""
    return Message(op, (), (words.encode(errors="replace")[:MOST_WORDS],))


def words_of(message: Message) -> str:
    """What it says to people, in one line that steers no terminal."""
    said = bytes(message.payload[:MOST_WORDS]).decode(errors="replace")
    return printable(" ".join(said.split()))


def why(error: BaseException) -> str:
    """Why a rank ends, for people."""
    match error:
        case PowerInferError():
            return str(error)
        case KeyboardInterrupt():
            return "it was interrupted"
        case SystemExit():  # as SIGTERM's
            return "it was terminated"
        case MemoryError():
            return "no memory was left"
    return type(error).__name__


class Coming:
    """A message of one kind and size that is to come next: there is room for it before it does, and little left to do
    when it has, when caches hold a model's weights rather than a program.
    """

    def __init__(self, op: Op, size: int) -> None:
        self._room = np.zeros(HEADER.size + size, np.uint8).data
        self._expected = header(op, (), size)
        self._dropped = header(op, (DROPPED,), size)

    @property
    def payload(self) -> memoryview:
        """Where what follows the header will be."""
        return self._room[HEADER.size :]

    def receive(self, wire: Wire, usual: float = 0.0) -> bool:
        """With one call of the system where all has come. usual: as a wire's. False: it was dropped, and the payload is
        nothing. Raises Lost: also for what is anything else.
        """
        n = wire.receive_into(self._room, HEADER.size, usual)
        found = self._room[: HEADER.size]
        if found not in (self._expected, self._dropped):
            raise Lost("sends what it was not asked for")
        if n < len(self._room):
            wire.receive_into(self._room[n:], len(self._room) - n)
        return found == self._expected
