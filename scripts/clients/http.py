"""HTTP/1.1 over asyncio's sockets with next to no work a byte, as client and server share the cores."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "ask", "events", "head", "unchunked", "whole_answer"]

PIECE = 1 << 16
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """`first` and `last` are seconds from sending until a body began to come and had come."""

    status: int
    body: bytes
    first: float
    last: float

    def json(self) -> Any:
        return json.loads(self.body)


def head(method: str, path: str, length: int, headers: Mapping[str, str] | None = None) -> bytes:
    """A request's head, of a connection that is closed behind its answer."""
    fields = {
        "Host": "127.0.0.1",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def ask(port: int, path: str, body: Any = None, method: str | None = None) -> Answer:
    """One request on a connection of its own; `body` is JSON, or bytes as they are.

    Raises OSError, and ValueError for an answer that is no HTTP.
    """
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        begin = time.perf_counter()
        writer.write(head(method or ("GET" if body is None else "POST"), path, len(data)) + data)
        return await read_answer(reader, begin)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader, begin: float) -> Answer:
    """What comes until the connection is closed."""
    try:
        top = await reader.readuntil(END_OF_HEAD)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("closed before an answer") from error
    pieces = [await reader.read(PIECE)]
    first = time.perf_counter() - begin
    while pieces[-1]:
        pieces.append(await reader.read(PIECE))
    return whole_answer(top + b"".join(pieces), first, time.perf_counter() - begin)


def whole_answer(data: bytes, first: float = 0.0, last: float = 0.0) -> Answer:
    """All bytes of an answer, understood. Raises ValueError if they are none, or not all."""
    top, _, body = data.partition(END_OF_HEAD)
    lines = top.decode("latin-1").lower().split("\r\n")
    status = int([*lines[0].split(), "", ""][1])
    return Answer(status, unchunked(body) if "transfer-encoding: chunked" in lines else body, first, last)


def unchunked(data: bytes) -> bytes:
    """The body in chunked coding. Raises ValueError if its end is missing."""
    parts, at = [], 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[line + 2 : line + 2 + size])
        at = line + 2 + size + 2


def events(body: bytes) -> list[bytes]:
    """The data of a stream's events."""
    return [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
