"""DRY: the longer a token would continue a repetition of earlier text, the less likely it becomes.

A sequence breaker (such as a newline) ends every repetition. Breakers are text and the history is tokens, so each
breaker becomes token sequences: a head token that contains or begins the breaker, and a tail of tokens for its rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from powerinfer_cli.sampling.candidates import Candidates, Ids

# head token -> tails; the empty tail means that the head alone breaks.
Breakers: TypeAlias = Mapping[int, frozenset[tuple[int, ...]]]

_MAX_BREAKER_BYTES = 40
_MAX_TAIL_TOKENS = 20
_FLOAT32_MAX_LOG = 88.7228391


class Vocabulary(Protocol):
    """A tokenizer, as far as breakers are concerned."""

    @property
    def vocab_size(self) -> int: ...
    def piece(self, token: int, special: bool = ...) -> bytes: ...
    def encode(self, text: str | bytes, add_special: bool = ..., parse_special: bool = ...) -> list[int]: ...


class TokenBreakers(Mapping[int, frozenset[tuple[int, ...]]]):
    """The token sequences that make up any of several breakers, found for each token when it is first asked for.

    A text has some hundred tokens of a vocabulary's hundred thousand, so looking at all of them would be most of the
    work. Only the first 40 bytes of a breaker and the first 20 tokens of a tail count.
    """

    def __init__(
        self,
        breakers: Sequence[str],
        piece: Callable[[int], bytes],
        n_vocab: int,
        encode: Callable[[bytes], Sequence[int]],
    ) -> None:
        """piece: the bytes of a token id below n_vocab. encode: text to tokens, without special ones."""
        cut = (breaker.encode("utf-8", "surrogateescape")[:_MAX_BREAKER_BYTES] for breaker in breakers)
        self._texts = [text for text in dict.fromkeys(cut) if text]
        self._piece, self._n_vocab, self._encode = piece, n_vocab, encode
        self._begun: dict[bytes, list[tuple[bytes, bytes]]] = {}  # beginning of a text -> the text, its rest
        for text in self._texts:
            for n in range(1, len(text)):
                self._begun.setdefault(text[:n], []).append((text, text[n:]))
        self._shortest = min(map(len, self._texts), default=0)
        self._tails: dict[bytes, tuple[int, ...]] = {}
        self._found: dict[int, frozenset[tuple[int, ...]]] = {}

    @classmethod
    def of(cls, breakers: Sequence[str], vocabulary: Vocabulary) -> TokenBreakers:
        """In a tokenizer's vocabulary."""
        return cls(
            breakers,
            lambda token: vocabulary.piece(token, special=True),
            vocabulary.vocab_size,
            lambda text: vocabulary.encode(text, add_special=False, parse_special=False),
        )

    def get(self, token: int, default: Any = None) -> Any:
        """The tails of a head, or the default."""
        found = self._found.get(token)
        if found is None:
            found = self._found[token] = self._find(token)
        return found or default

    def __getitem__(self, token: int) -> frozenset[tuple[int, ...]]:
        found: frozenset[tuple[int, ...]] | None = self.get(token)
        if found is None:
            raise KeyError(token)
        return found

    def __iter__(self) -> Iterator[int]:
        return (token for token in range(self._n_vocab) if self.get(token))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def _find(self, token: int) -> frozenset[tuple[int, ...]]:
        if not 0 <= token < self._n_vocab:
            return frozenset()
        piece = self._piece(token)
        whole = {text for text in self._texts if text in piece} if len(piece) >= self._shortest else frozenset()
        tails: set[tuple[int, ...]] = {()} if whole else set()
        for n in range(1, min(len(piece), _MAX_BREAKER_BYTES - 1) + 1):
            for text, rest in self._begun.get(piece[-n:], ()):
                if text not in whole:
                    tails.add(self._tail(rest))
        return frozenset(tails)

    def _tail(self, rest: bytes) -> tuple[int, ...]:
        if rest not in self._tails:
            self._tails[rest] = tuple(self._encode(rest)[:_MAX_TAIL_TOKENS])
        return self._tails[rest]


def dry(
    candidates: Candidates, recent: Ids, breakers: Breakers, *, multiplier: float, base: float, allowed_length: int
) -> Candidates:
    """Take multiplier * base**(length - allowed_length) off each token that would continue a repetition.

    `recent` is the window of history, oldest first; `length` counts the tokens repeated so far and has to reach
    `allowed_length`. Off: multiplier 0.
    """
    if multiplier == 0.0 or recent.size <= allowed_length:
        return candidates
    backwards = recent[::-1]
    # Beyond this exponent the penalty would overflow float32, so longer repetitions are all alike.
    longest_counted = backwards.size
    if base > 1.000001:
        longest_counted = min(longest_counted, allowed_length + int(_FLOAT32_MAX_LOG / math.log(base)))
    limit = _tokens_since_break(backwards[: longest_counted + _MAX_TAIL_TOKENS + 1], breakers)
    if limit < allowed_length:
        return candidates
    lengths = _repeat_lengths(backwards, min(limit, longest_counted))
    ends = np.flatnonzero(lengths >= allowed_length)
    ends = ends[ends > 0]
    tokens, group = np.unique(backwards[ends - 1], return_inverse=True)
    longest = np.zeros(tokens.size, np.intp)
    np.maximum.at(longest, group, lengths[ends])

    positions, which = candidates.locate(tokens)
    breaking = np.array([() in breakers.get(int(token), ()) for token in tokens[which]], bool)
    penalty = multiplier * np.power(float(base), longest[which] - allowed_length)
    logits = candidates.logits.copy()
    logits[positions] -= np.where(breaking, 0.0, penalty).astype(np.float32)
    return candidates.with_logits(logits)


def _tokens_since_break(backwards: Ids, breakers: Breakers) -> int:
    """How many tokens of history follow the latest breaker; all of them when there is none."""
    if not breakers:
        return backwards.size
    history, tails_of = backwards.tolist(), breakers.get
    for age, token in enumerate(history):
        tails = tails_of(token)
        if not tails:
            continue
        matching = [
            len(tail)
            for tail in tails
            if len(tail) <= age and all(history[age - 1 - i] == part for i, part in enumerate(tail))
        ]
        if matching:
            return age - max(matching)
    return len(history)


def _repeat_lengths(backwards: Ids, limit: int) -> Ids:
    """For each age k: how many tokens ending there equal the latest ones, `limit` at most. [n]; 0 for k = 0.

    The Z function, in time proportional to n: what was found equal to the latest tokens tells of all that lies in it.
    """
    n = backwards.size
    history = backwards.tolist()
    lengths = [0] * n
    begin = end = 0  # of the farthest stretch so far that equals the latest tokens
    for age in (np.flatnonzero(backwards[1:] == backwards[0]) + 1).tolist() if limit > 0 else ():
        length = min(lengths[age - begin], end - age) if age < end else 0
        if age + length >= end:
            while length < limit and age + length < n and history[age + length] == history[length]:
                length += 1
            begin, end = age, age + length
        lengths[age] = length
    return np.array(lengths, np.intp)
