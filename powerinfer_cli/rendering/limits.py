"""What a template may use, and how it fails."""

from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Cause", "Limits", "RenderingError"]


@dataclass(frozen=True)
class Limits:
    """Of one rendering: memory of its process, its processor time, and the sizes of what goes in and comes out."""

    memory_bytes: int = 160 << 20
    cpu_ms: int = 2000
    source_bytes: int = 1 << 20
    value_chars: int = 8 << 20
    text_bytes: int = 32 << 20


class Cause(Enum):
    """Whose fault it is: the template's or that of its variables, which it may refuse; the template's, which used up
    what it may, and would again; that of the process, which another time may do.
    """

    TEMPLATE = auto()
    LIMIT = auto()
    PROCESS = auto()


class RenderingError(Exception):
    """The reason, one line."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause = cause
