"""Texts of encoders: read whole, several in a step, and nothing is kept of them."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, islice

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.step import Piece, Wanted

__all__ = ["check_writes", "longest_text", "n_whole", "whole_text_options"]

TEXTS = 64  # in a step, at most


def longest_text(options: EngineOptions, config: ModelConfig) -> int:
    """Tokens of a text, at most: as many as were asked for; without, as the model knows, and never more than it has
    learned positions.
    """
    known = config.n_ctx_train
    return min(options.n_ctx or known, known) if config.learned_positions else options.n_ctx or known


def whole_text_options(options: EngineOptions, config: ModelConfig) -> EngineOptions:
    """The same for an encoder: a step has room for its longest text, or for n_ubatch tokens of several."""
    n = max(longest_text(options, config), options.n_ubatch)
    n_sequences = max(TEXTS, options.n_sequences)
    return replace(options, n_ctx=n, n_batch=n, n_ubatch=n, n_sequences=n_sequences, unified=True)


def n_whole(lengths: Iterable[int], n_sequences: int, most_tokens: int) -> int:
    """How many of the first texts go into a step: one at least, whatever its length."""
    total = list(accumulate(islice(lengths, n_sequences)))
    return max(1, bisect_right(total, most_tokens))


def check_writes(config: ModelConfig, pieces: Sequence[Piece] | None = None) -> None:
    """Raises PowerInferError: logits are asked of an encoder. pieces: of a step; None: it is asked for some."""
    asked = pieces is None or any(piece.wanted in (Wanted.LAST, Wanted.ALL) for piece in pieces)
    if asked and not config.writes:
        raise PowerInferError(
            f"the model ({config.architecture.name}) makes vectors of texts and writes none: "
            "ask the server's /v1/embeddings or /rerank, or use a model that writes"
        )
