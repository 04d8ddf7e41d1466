"""What a text may be, and grammars for a model's vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from powerinfer_cli.sampling.grammars.grammar import Grammars, NewConstraint

__all__ = ["Form", "TokenPieces", "grammars_of"]


class TokenPieces(Protocol):
    """What is asked of a tokenizer."""

    vocab_size: int
    eog_ids: frozenset[int]

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token."""

    def is_control(self, token: int) -> bool:
        """Whether the token is no text."""


@dataclass(frozen=True)
class Form:
    """What a text may be: a GBNF grammar, JSON by a schema, or anything where both are None."""

    grammar: str | None = None
    json_schema: Any = None

    def compiled(self, grammars: Grammars) -> NewConstraint | None:
        """For a model's vocabulary. Raises GrammarError."""
        if self.grammar is not None:
            return grammars.gbnf(self.grammar)
        return None if self.json_schema is None else grammars.json_schema(self.json_schema)


def grammars_of(tokenizer: TokenPieces, warn: Callable[[str], None] = lambda line: None) -> Grammars:
    """Text is what the tokenizer's ordinary tokens write; control tokens match only where a grammar names them.

    warn: takes lines on what of a JSON schema is not held.
    """
    ids = range(tokenizer.vocab_size)
    control = {i: tokenizer.piece(i, special=True) for i in ids if tokenizer.is_control(i)}
    return Grammars([tokenizer.piece(i) for i in ids], tokenizer.eog_ids, control, warn)
