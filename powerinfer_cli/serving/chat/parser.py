"""The text of an answer, as it comes, to thoughts, content and calls.

What is told depends on the text alone, not on how it is cut, and is never taken back: text that may yet become a tag
or a call waits until that is clear.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from .calls import CallReader
from .deltas import ContentDelta, Delta, ReasoningDelta
from .generic_calls import GenericReader
from .ids import new_call_id
from .markers import find_first
from .reasoning import ThinkTags
from .tool_styles import GENERIC, ToolStyle

__all__ = ["AnswerParser", "ParserOptions"]


@dataclass(frozen=True)
class ParserOptions:
    """tags: of thoughts. thinking: the text begins inside of them; continued: the answer has begun before. inline:
    thoughts stay in the content. style: of calls, None where none are looked for; known: the names of the tools.
    new_id: makes the id of a call, of as many letters as it is given, 0 for an id of ours.
    """

    tags: ThinkTags
    thinking: bool = False
    continued: bool = False
    inline: bool = False
    style: ToolStyle | None = None
    known: frozenset[str] = frozenset()
    new_id: Callable[[int], str] = field(default=new_call_id)


class AnswerParser:
    """One answer. `push` text, then `finish` once; both tell what has become clear."""

    def __init__(self, options: ParserOptions) -> None:
        self._tags, self._inline = options.tags, options.inline
        self._held = ""
        self._step = self._content if options.continued else self._beginning
        if options.thinking:
            self._step = self._thoughts
        self._trim = not options.continued
        self._reader: CallReader | GenericReader | None = None
        if options.style is GENERIC:
            self._reader = GenericReader(options.new_id, options.known)
        elif options.style is not None:
            self._reader = CallReader(options.style, options.new_id, options.known)

    def push(self, text: str) -> list[Delta]:
        """More of the text."""
        self._held += text
        return self._run(final=False)

    def finish(self) -> list[Delta]:
        """The text has ended."""
        return self._run(final=True)

    def _run(self, final: bool) -> list[Delta]:
        """Each step takes from the held text what it can, and says whether another step goes on with the rest."""
        deltas: list[Delta] = []
        while self._step(deltas, final):
            pass
        return deltas

    def _beginning(self, deltas: list[Delta], final: bool) -> bool:
        """Thoughts may begin here."""
        text = self._held.lstrip()
        if text.startswith(self._tags.start):
            if self._inline:
                deltas.append(ContentDelta(self._held[: len(self._held) - len(text)] + self._tags.start))
            self._held = text.removeprefix(self._tags.start)
            self._step, self._trim = self._thoughts, True
            return True
        if not final and self._tags.start.startswith(text):
            return False
        self._step = self._content
        return True

    def _thoughts(self, deltas: list[Delta], final: bool) -> bool:
        """Up to the closing tag."""
        if self._inline:
            return self._inline_thoughts(deltas, final)
        if self._trim:  # white space around thoughts is no part of them
            self._held = self._held.lstrip()
            self._trim = not self._held
        found, marker = find_first(self._held, (self._tags.end,))
        safe = self._held if marker is None and final else self._held[:found]
        thoughts = safe.rstrip()
        if thoughts:
            deltas.append(ReasoningDelta(thoughts))
        if marker is None:
            self._held = "" if final else self._held[len(thoughts) :]
            return False
        self._held = self._held[found + len(marker) :]
        self._step = self._after_thoughts
        return True

    def _inline_thoughts(self, deltas: list[Delta], final: bool) -> bool:
        """As they are, tags and all."""
        found, marker = find_first(self._held, (self._tags.end,))
        end = len(self._held) if marker is None and final else found + len(marker or "")
        if end:
            deltas.append(ContentDelta(self._held[:end]))
        self._held = self._held[end:]
        if marker is not None:
            self._step = self._content
        return marker is not None

    def _after_thoughts(self, deltas: list[Delta], final: bool) -> bool:
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._content
        return bool(self._held)

    def _content(self, deltas: list[Delta], final: bool) -> bool:
        if self._reader is None:
            if self._held:
                deltas.append(ContentDelta(self._held))
            self._held = ""
            return False
        taken, again = self._reader.read(self._held, deltas, final)
        self._held = self._held[taken:]
        return again
