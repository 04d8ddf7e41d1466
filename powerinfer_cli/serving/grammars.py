"""Grammars for a model's tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from powerinfer_cli.sampling.grammar import Grammars, NewConstraint
from powerinfer_cli.text.tokenizer import Tokenizer

__all__ = ["Form", "grammars_of"]


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


def grammars_of(tokenizer: Tokenizer, warn: Callable[[str], None] = lambda line: None) -> Grammars:
    """Text is what the tokenizer's ordinary tokens write; control tokens match only where a grammar names them.

    warn: takes lines on what of a JSON schema is not held.
    """
    ids = range(tokenizer.vocab_size)
    control = {i: tokenizer.piece(i, special=True) for i in ids if tokenizer.is_control(i)}
    return Grammars([tokenizer.piece(i) for i in ids], tokenizer.eog_ids, control, warn)
