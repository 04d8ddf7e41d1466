"""What happens to models, told to whoever listens at /models/sse."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from powerinfer_cli.serving.http.sse import sse

__all__ = ["Events"]

MOST_WAITING = 1000  # events that a listener has yet to read; then it is not one any more
PING_S = 15.0


class Events:
    """In one event loop."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[bytes]] = set()

    def tell(self, model: str, event: str, data: dict[str, Any]) -> None:
        """All who listen now."""
        body = sse({"model": model, "event": event, "data": data})
        for queue in list(self._listeners):
            try:
                queue.put_nowait(body)
            except asyncio.QueueFull:
                self._listeners.discard(queue)

    async def listen(self) -> AsyncIterator[bytes]:
        """Events as they come, and a comment in each long silence."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(MOST_WAITING)
        self._listeners.add(queue)
        try:
            yield b":\n\n"
            while queue in self._listeners:
                try:
                    yield await asyncio.wait_for(queue.get(), PING_S)
                except TimeoutError:
                    yield b":\n\n"
        finally:
            self._listeners.discard(queue)
