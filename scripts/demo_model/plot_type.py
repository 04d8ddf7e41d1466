"""What a plot is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """One kind of story. `tables` hold values that belong together; the five beats are told in order.

    `questions` are (question, true answer) templates; `morals` are clauses that fit "... learned that ...".
    """

    name: str
    tables: dict[tuple[str, ...], list[tuple[str, ...]]]
    wish: tuple[str, ...]
    trouble: tuple[str, ...]
    meeting: tuple[str, ...]
    turn: tuple[str, ...]
    ending: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    morals: tuple[str, ...]

    @property
    def beats(self) -> tuple[tuple[str, ...], ...]:
        """The five beats, each a tuple of alternative templates."""
        return (self.wish, self.trouble, self.meeting, self.turn, self.ending)
