"""Some processes that render, for all threads."""

import atexit
import contextlib
import json
import queue
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from .cancelling import Cancellation, cancellation
from .limits import Cause, Limits, RenderingError
from .process import Process

__all__ = ["Renderer", "shared_renderer"]

_encode = json.JSONEncoder(ensure_ascii=False).encode


class Renderer:
    """Renders up to `n_processes` templates at a time; who comes first is first. Any thread may use it."""

    def __init__(self, limits: Limits | None = None, n_processes: int = 2) -> None:
        self._limits = limits or Limits()
        # The last that came back goes first, so that no more are started than are needed at a time.
        self._idle: queue.LifoQueue[Process] = queue.LifoQueue()
        for _ in range(n_processes):
            self._idle.put(Process(self._limits))
        atexit.register(self.close)

    def start(self) -> None:
        """Have a process ready soon. Nothing is waited for, and a failure is told when something is rendered."""
        process = self._idle.get()
        with contextlib.suppress(RenderingError):
            process.start()
        self._idle.put(process)

    def check(self, source: str) -> None:
        """Compile a template. Raises RenderingError."""
        self._ask(source, b"")

    def render(self, source: str, values: Mapping[str, Any]) -> str:
        """The text of a template for variables that are JSON. Raises RenderingError."""
        return self._ask(source, self._json(values)).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """End the processes that are idle; those at work end with ours."""
        processes = []
        while not self._idle.empty():
            processes.append(self._idle.get())
        for process in processes:
            process.end()
            self._idle.put(process)

    def _ask(self, source: str, values: bytes) -> bytes:
        program = source.encode("utf-8", "surrogatepass")
        if len(program) > self._limits.source_bytes:
            raise RenderingError(f"it is longer than {self._limits.source_bytes} bytes", Cause.LIMIT)
        process = self._idle.get()
        try:
            with (cancellation.get() or Cancellation()).ending(process.interrupt):
                return process.ask(program, values)
        finally:
            self._idle.put(process)

    def _json(self, values: Mapping[str, Any]) -> bytes:
        parts, size = [], 0
        try:
            for part in _parts(values):
                size += len(part)
                if size > self._limits.value_chars:
                    raise RenderingError(f"it is given more than {self._limits.value_chars} characters", Cause.TEMPLATE)
                parts.append(part)
        except RecursionError as error:
            raise RenderingError("what it is given is nested too deeply", Cause.TEMPLATE) from error
        except (TypeError, ValueError) as error:
            raise RenderingError(f"what it is given is not JSON: {error}", Cause.TEMPLATE) from error
        return "".join(parts).encode("utf-8", "surrogatepass")


def _parts(values: Mapping[str, Any]) -> Iterator[str]:
    """A JSON object, of whose lists each item is a part: not all of a large one is written before it is measured."""
    for i, (name, value) in enumerate(values.items()):
        yield f"{', ' if i else '{'}{_encode(name)}: "
        if isinstance(value, list) and value:
            for k, item in enumerate(value):
                yield f"{', ' if k else '['}{_encode(item)}"
            yield "]"
        else:
            yield _encode(value)
    yield "}" if values else "{}"


@cache
def shared_renderer() -> Renderer:
    """One for the whole program."""
    return Renderer()
