"""What is wrong with a grammar, or with a text that one constrains."""

from powerinfer_cli.errors import PowerInferError

__all__ = ["GrammarError"]


class GrammarError(PowerInferError):
    """One line."""
