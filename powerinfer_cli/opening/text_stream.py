"""A text while it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from powerinfer_cli.opening.context import Context
from powerinfer_cli.sampling import Sampler
from powerinfer_cli.sampling.grammars.constrained import sample
from powerinfer_cli.sampling.grammars.grammar import Constraint
from powerinfer_cli.text import StopMatcher, StreamingDetokenizer, Tokenizer

__all__ = ["Answer", "TextStream"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Answer:
    """A text that was written, and why it ended: "stop" where the model, a stop text or a grammar ended it, "length"
    where `max_tokens` or a full context did. In tokens: prompt_tokens, completion_tokens (without the end's).
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int

    def __str__(self) -> str:
        return self.text


class TextStream(Iterator[str]):
    """Pieces of a text as they are written, never a part of a character. Nothing is computed before they are asked for.

    `text`: all of it so far. `finish_reason`: None while it goes on; then "stop" or "length".
    Iterating raises PowerInferError: the model was closed, or has begun another text since.
    """

    def __init__(
        self,
        context: Context,
        tokenizer: Tokenizer,
        ids: Sequence[int],
        sampler: Sampler,
        constraint: Constraint | None,
        detokenizer: StreamingDetokenizer,
        max_tokens: int | None,
        stop: Sequence[str],
        tails: Sequence[int] = (),
    ) -> None:
        """tails: as of the engine's `prefill`."""
        self._context, self._ids, self._sampler, self._constraint = context, list(ids), sampler, constraint
        self._ends, self._stop_ids = tokenizer.eog_ids, _single_tokens(tokenizer, stop)
        self._detokenizer, self._matcher = detokenizer, StopMatcher(stop)
        self._max_tokens, self._tails = max_tokens, tails
        self._pieces = self._write()
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = len(self._ids)
        self.completion_tokens = 0

    def __iter__(self) -> "TextStream":
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def seed(self) -> int:
        """What the draws are made from: the same again gives the same text."""
        return self._sampler.seed

    def read(self) -> Answer:
        """Write the text to its end."""
        for _ in self:
            pass
        return Answer(self.text, self.finish_reason or "stop", self.prompt_tokens, self.completion_tokens)

    def close(self) -> None:
        """No more of it is wanted."""
        self._pieces.close()  # type: ignore[attr-defined]  # it is a generator

    def _write(self) -> Iterator[str]:
        logits: npt.NDArray[np.float32] | None = self._context.read(self, self._ids, self._tails)
        for token in self._ids:
            self._sampler.accept(token)
        while logits is not None and self.completion_tokens != self._max_tokens:
            if self._constraint is not None and self._constraint.finished:
                self.finish_reason = "stop"
                break
            token = self._next(logits)
            if token in self._ends or token in self._stop_ids:
                self.finish_reason = "stop"
                break
            self.completion_tokens += 1
            piece, hit = self._matcher.push(self._detokenizer.push(token))
            if piece:
                self.text += piece
                yield piece
            if hit is not None:
                self.finish_reason = "stop"
                return
            if self.completion_tokens != self._max_tokens:
                logits = self._context.append(self, token)
        self._detokenizer.reset()
        rest = self._matcher.flush()
        self.finish_reason = "stop" if self._matcher.hit else self.finish_reason or "length"
        if rest:
            self.text += rest
            yield rest

    def _next(self, logits: npt.NDArray[np.float32]) -> int:
        token = sample(self._sampler, logits, self._constraint)
        self._sampler.accept(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token


def _single_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> frozenset[int]:
    """Those of the texts that are one control token: these are not in the text that is written."""
    encoded = [tokenizer.encode(text, add_special=False, parse_special=True) for text in texts]
    return frozenset(ids[0] for ids in encoded if len(ids) == 1 and tokenizer.is_control(ids[0]))
