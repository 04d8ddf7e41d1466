"""What of a text may be shown while it is written, and which tokens go with it."""

from collections import deque
from dataclasses import dataclass, field

from powerinfer_cli.serving.tasks import CompletionTask, TokenChances
from powerinfer_cli.text import StopMatcher, StreamingDetokenizer, Tokenizer

__all__ = ["IndentWatch", "Showing", "ShownText"]


@dataclass
class ShownText:
    """Text that is sure to stay, with its tokens and their chances (none where nobody asked for them)."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    chances: list[TokenChances] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens)


class Showing:
    """Holds text back that may be the beginning of a stop string or that ends inside a character.

    A token comes with the first of its text. One without text comes with what is before it. Those that lie behind the
    end, as the tokens of a stop string do, never come.
    """

    def __init__(self, tokenizer: Tokenizer, task: CompletionTask) -> None:
        self._detokenizer = StreamingDetokenizer(
            tokenizer, task.special, strip_first_space=task.strip_first_space, shown=task.preserved
        )
        self._matcher = StopMatcher(task.stop)
        self._indent = IndentWatch(task.n_indent) if task.n_indent > 0 else None
        self._held: deque[tuple[int, TokenChances | None, int]] = deque()  # and where each token's text begins
        self._n_text = 0  # characters so far
        self._n_shown = 0
        self.outdented = False
        """Whether a line began with less white space than the task wants; the text ends before its first letter."""

    @property
    def stopping_word(self) -> str | None:
        """The stop string that was found."""
        return self._matcher.hit

    @property
    def ended(self) -> bool:
        """Whether the text has found its end."""
        return self.outdented or self._matcher.hit is not None

    def push(self, token: int, chances: TokenChances | None) -> ShownText:
        """What may be shown now that this token was written."""
        self._held.append((token, chances, self._n_text))
        text = self._detokenizer.push(token)
        self._n_text += len(text)
        return self._show(self._matcher.push(text)[0])

    def flush(self) -> ShownText:
        """The rest, at the end. `stopping_word` may be set only now."""
        if self.ended:
            return ShownText()
        self._detokenizer.reset()
        return self._show(self._matcher.flush())

    def _show(self, text: str) -> ShownText:
        if self._indent is not None:
            end = self._indent.push(text)
            self.outdented = end < len(text)
            text = text[:end]
        self._n_shown += len(text)
        complete = self._n_shown == self._n_text and not self._detokenizer.incomplete
        shown = ShownText(text)
        while self._held and (complete or self._held[0][2] < self._n_shown):
            token, chances, _ = self._held.popleft()
            shown.tokens.append(token)
            if chances is not None:
                shown.chances.append(chances)
        return shown


class IndentWatch:
    """Finds the first line, after the one that the text begins with, that is indented by too little."""

    def __init__(self, n_indent: int) -> None:
        self._wanted = n_indent
        self._seen: int | None = None  # white space of the line so far, None behind it

    def push(self, text: str) -> int:
        """How much of `text` comes before the letter that begins such a line; all of it where there is none."""
        for i, letter in enumerate(text):
            if self._seen is not None:
                if letter in " \t":
                    self._seen += 1
                    continue
                if self._seen < self._wanted:
                    return i
                self._seen = None
            if letter == "\n":
                self._seen = 0
        return len(text)
