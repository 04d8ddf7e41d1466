"""What the door asks a replica, and what comes back. Ray pickles both between processes that it started itself."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["LARGEST", "PIECE", "Head", "Headers", "Part", "Question", "pieces"]

LARGEST = 16 << 20  # bytes of a request: the text of a million tokens; a replica may take less
PIECE = 1 << 20  # bytes of an answer that go through Ray at once: what is sent as one message is held as one
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Question:
    """A request whose body has been read. prefix: of its conversation, as `prefix_of` has it. writes: it takes a slot,
    and so must wait for one. replica: the only one that may answer; None: any.
    """

    method: str
    path: str
    query: bytes = b""
    headers: Headers = ()
    body: bytes = b""
    prefix: tuple[int, ...] = ()
    writes: bool = False
    replica: str | None = None


@dataclass(frozen=True)
class Head:
    """What an answer begins with. replica: who answers."""

    status: int
    headers: Headers
    replica: str


@dataclass(frozen=True)
class Part:
    """What of an answer has come. head: with the first part. last: there is no more; an answer without such a part was
    cut off.
    """

    body: bytes
    head: Head | None = None
    last: bool = False


def pieces(body: bytes) -> Iterator[bytes]:
    """All of it, PIECE bytes at a time; of nothing, one that is empty."""
    for begin in range(0, max(1, len(body)), PIECE):
        yield body[begin : begin + PIECE]
