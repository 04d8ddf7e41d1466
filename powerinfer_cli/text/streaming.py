"""Text while it is generated: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Container, Sequence

from .tokenizer import Tokenizer

__all__ = ["StopMatcher", "StreamingDetokenizer"]


class StreamingDetokenizer:
    """Ids one by one to text that never ends inside a character.

    The text continues what came before, so no leading space is dropped unless `strip_first_space`, which is for a
    text of its own. Bytes that are not UTF-8 become U+FFFD, as soon as it is clear that they are not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: bool = False,
        *,
        strip_first_space: bool = False,
        shown: Container[int] = frozenset(),
    ) -> None:
        """`special`: control tokens are shown as their text. `shown`: these are in any case."""
        self._tokenizer = tokenizer
        self._special = special
        self._shown = shown
        self._strip = strip_first_space and tokenizer.add_space_prefix
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        piece = self._tokenizer.piece(token, special=self._special or token in self._shown)
        if self._strip and piece:
            piece = piece.removeprefix(b" ")
            self._strip = False
        return self._decoder.decode(piece)

    @property
    def incomplete(self) -> bool:
        """Whether the last character is not complete yet."""
        return bool(self._decoder.getstate()[0])

    def reset(self) -> None:
        """The end: an incomplete character is left out, as llama.cpp leaves it. May then be used afresh."""
        self._decoder.reset()


class StopMatcher:
    """Finds the first of several stop strings in a text that comes in pieces, and lets nothing of it through.

    The result does not depend on how the text is cut: the stop string that begins first wins, the shorter one of two
    that begin together.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Empty stop strings are ignored."""
        self._stops = sorted({stop for stop in stops if stop}, key=len)
        self._held = ""
        self.hit: str | None = None
        """The stop string that was found."""

    def push(self, text: str) -> tuple[str, str | None]:
        """(the text that is safe to show, the stop string that was found). After a hit there is no more text."""
        if self.hit is not None:
            return "", self.hit
        self._held += text
        start, stop = self._first_match()
        open_end = self._first_open_end(start)
        if stop is not None and open_end == start:
            return self._finish(start, stop), stop
        safe, self._held = self._held[:open_end], self._held[open_end:]
        return safe, None

    def flush(self) -> str:
        """The text that was held back, at the end of everything; `hit` is set when it still holds a stop string."""
        start, stop = self._first_match()
        if stop is not None:
            return self._finish(start, stop)
        rest, self._held = self._held, ""
        return rest

    def _finish(self, start: int, stop: str) -> str:
        safe, self._held, self.hit = self._held[:start], "", stop
        return safe

    def _first_match(self) -> tuple[int, str | None]:
        """(where the first stop string begins, which); (length of the held text, None) without one."""
        best: tuple[int, str | None] = (len(self._held), None)
        for stop in self._stops:
            found = self._held.find(stop)
            if 0 <= found < best[0]:
                best = (found, stop)
        return best

    def _first_open_end(self, limit: int) -> int:
        """The first place before `limit` from which the held text could grow into a stop string; else `limit`."""
        longest = len(self._stops[-1]) if self._stops else 0
        for start in range(max(0, len(self._held) - longest + 1), limit):
            tail = self._held[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return start
        return limit
