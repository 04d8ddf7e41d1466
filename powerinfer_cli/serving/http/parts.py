"""JSON that is written part by part, so that a large answer takes neither its own size in memory nor anybody's time."""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from starlette.responses import Response, StreamingResponse

from powerinfer_cli.serving.http.bodies import Answer, json_bytes

__all__ = ["Later", "PreparedAnswer", "answer_in_parts", "each", "json_list", "json_parts"]

T = TypeVar("T")
_MARK = f"later {secrets.token_hex(16)}"  # which no client can have written
_WHOLE = 1 << 18  # bytes of an answer that is sent at once, with its length
_FEW = 8  # values that are cheaper to write together


class Later:
    """A value in a JSON document that is made, and written, when its turn comes."""

    def __init__(self, parts: Callable[[], Iterable[bytes]]) -> None:
        """parts: of its JSON; asked for once."""
        self.parts = parts


def json_parts(value: Any) -> Iterator[bytes]:
    """`value`, which may hold Laters, as `json_bytes` would write it."""
    try:
        whole = json_bytes(value)
    except TypeError:
        yield from _mixed_parts(value)
    else:
        yield whole


def _mixed_parts(value: Any) -> Iterator[bytes]:
    found: list[Later] = []

    def put(one: Any) -> str:
        if not isinstance(one, Later):
            raise TypeError(f"{type(one).__name__} is not for JSON")
        found.append(one)
        return _MARK

    text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=put).encode(value)
    first, *rest = text.split(f'"{_MARK}"')
    yield first.encode("utf-8", "replace")
    for later, between in zip(found, rest, strict=True):
        yield from later.parts()
        yield between.encode("utf-8", "replace")


def json_list(values: Iterable[Any], size: int, brackets: bytes = b"[]") -> Iterator[bytes]:
    """A JSON array of `values`, so many of them at a time. brackets b"{}": an object of (key, value)."""
    opening, closing = brackets[:1], brackets[1:]
    yield opening
    begun, batch = False, []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield b"," * begun + json_bytes(batch if opening == b"[" else dict(batch))[1:-1]
            begun, batch = True, []
    if batch:
        yield b"," * begun + json_bytes(batch if opening == b"[" else dict(batch))[1:-1]
    yield closing


def each(make: Callable[[T], Any], values: Sequence[T]) -> list[Any]:
    """What `make` makes of each; of many, when its turn comes."""
    if len(values) <= _FEW:
        return [make(value) for value in values]
    return [Later(lambda value=value: json_parts(make(value))) for value in values]  # type: ignore[misc]  # of the loop


class PreparedAnswer(Answer):
    """JSON that is bytes already."""

    def render(self, content: Any) -> bytes:
        assert isinstance(content, bytes)
        return content


async def answer_in_parts(value: Any, *, large: bool) -> Response:
    """A JSON answer; whole if it is small, else as it is written. large: it may be, and is not for the event loop."""
    if not large:
        return PreparedAnswer(b"".join(json_parts(value)))
    parts = json_parts(value)
    head, ended = await asyncio.to_thread(_head, parts)
    if ended:
        return PreparedAnswer(b"".join(head))
    return StreamingResponse(chain(head, parts), media_type=Answer.media_type)  # which takes parts in threads


def _head(parts: Iterator[bytes]) -> tuple[list[bytes], bool]:
    head, size = [], 0
    for part in parts:
        head.append(part)
        size += len(part)
        if size > _WHOLE:
            return head, False
    return head, True
