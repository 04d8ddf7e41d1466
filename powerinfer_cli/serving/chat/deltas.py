"""What an answer consists of, as it grows: text, thoughts, and calls of tools."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Answer", "ArgumentsDelta", "CallStart", "ContentDelta", "Delta", "ReasoningDelta", "ToolCall"]


@dataclass(frozen=True)
class ContentDelta:
    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True)
class CallStart:
    """The call number `index` of the answer begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """More of the JSON text that is the arguments of call `index`."""

    index: int
    text: str


Delta: TypeAlias = ContentDelta | ReasoningDelta | CallStart | ArgumentsDelta


@dataclass
class ToolCall:
    """arguments: JSON as text, as the model wrote it."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Answer:
    """All that has come by now."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, deltas: Iterable[Delta]) -> None:
        """Append what came."""
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    self.content += text
                case ReasoningDelta(text):
                    self.reasoning += text
                case CallStart(_, id_, name):
                    self.calls.append(ToolCall(id_, name))
                case ArgumentsDelta(index, text):
                    self.calls[index].arguments += text
