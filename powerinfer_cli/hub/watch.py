"""What a download tells to whoever shows how far it is."""

from types import TracebackType
from typing import Protocol

__all__ = ["Watch"]


class Watch(Protocol):
    """Told by a download what happens. All counts are bytes."""

    def __enter__(self) -> "Watch": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def begin(self, files: int, total: int, done: int) -> None:
        """`done` of `total` bytes in `files` files are here already."""

    def file(self, name: str, size: int, done: int) -> None:
        """The next file, of which `done` bytes are here."""

    def at(self, done: int) -> None:
        """How much of the current file is here now."""

    def note(self, text: str) -> None:
        """One line to read."""
