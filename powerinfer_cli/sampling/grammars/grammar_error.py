"""What is wrong with a grammar, or with a text that one constrains; and the limit that all kinds share."""

from powerinfer_cli.errors import PowerInferError

__all__ = ["MOST_NAMES", "GrammarError"]

MOST_NAMES = 4000
"""Of rules, or of levels of a schema with all that it refers to: llguidance goes down into these by recursion."""


class GrammarError(PowerInferError):
    """One line."""
