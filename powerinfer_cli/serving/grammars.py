"""Grammars for a model's tokenizer."""

from powerinfer_cli.sampling.grammar import Grammars
from powerinfer_cli.text.tokenizer import Tokenizer

__all__ = ["grammars_of"]


def grammars_of(tokenizer: Tokenizer) -> Grammars:
    """Text is what the tokenizer's ordinary tokens write; control tokens match only where a grammar names them."""
    ids = range(tokenizer.vocab_size)
    control = {i: tokenizer.piece(i, special=True) for i in ids if tokenizer.is_control(i)}
    return Grammars([tokenizer.piece(i) for i in ids], tokenizer.eog_ids, control)
