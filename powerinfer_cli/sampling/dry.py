"""DRY: the longer a token would continue a repetition of earlier text, the less likely it becomes.

A sequence breaker (such as a newline) ends every repetition. Breakers are text and the history is tokens, so each
breaker becomes token sequences: a head token that contains or begins the breaker, and a tail of tokens for its rest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from powerinfer_cli.sampling.candidates import Candidates, Ids

# head token -> tails; the empty tail means that the head alone breaks.
Breakers: TypeAlias = Mapping[int, frozenset[tuple[int, ...]]]

_MAX_BREAKER_BYTES = 40
_MAX_TAIL_TOKENS = 20
_BETWEEN = b"\xff"  # in no text that is UTF-8
_FLOAT32_MAX_LOG = 88.7228391


def token_breakers(
    breakers: Sequence[str], pieces: Sequence[bytes], encode: Callable[[bytes], Sequence[int]]
) -> Breakers:
    """The token sequences that make up any of the breakers.

    `pieces` are the bytes of every token id; `encode` turns text into tokens, without special ones. Only the first
    40 bytes of a breaker and the first 20 tokens of a tail count.
    """
    found: dict[int, set[tuple[int, ...]]] = {}
    searched = _Searched(pieces)
    for breaker in breakers:
        text = breaker.encode("utf-8", errors="surrogateescape")[:_MAX_BREAKER_BYTES]
        if text:
            _add_breaker(found, text, searched, encode)
    return {head: frozenset(tails) for head, tails in found.items()}


def _add_breaker(
    found: dict[int, set[tuple[int, ...]]],
    text: bytes,
    searched: _Searched,
    encode: Callable[[bytes], Sequence[int]],
) -> None:
    whole = searched.having(text)
    for token in whole:
        found.setdefault(token, set()).add(())
    for n in range(1, len(text)):
        heads = searched.ending(text[:n]) - whole
        if heads:
            tail = tuple(encode(text[n:])[:_MAX_TAIL_TOKENS])
            for token in heads:
                found.setdefault(token, set()).add(tail)


class _Searched:
    """All pieces one behind the other: searched at once, in a fraction of the time that one by one would take."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._text = b"".join(piece + _BETWEEN for piece in pieces)
        self._ends = (np.cumsum([len(piece) + 1 for piece in pieces]) - 1).tolist()

    def having(self, part: bytes) -> set[int]:
        """The tokens that `part` is in."""
        return self._found(part, part, at_end=False)

    def ending(self, part: bytes) -> set[int]:
        """The tokens that end with `part`."""
        return self._found(part, part + _BETWEEN, at_end=True)

    def _found(self, part: bytes, wanted: bytes, *, at_end: bool) -> set[int]:
        tokens: set[int] = set()
        at = self._text.find(wanted)
        while at >= 0:
            token = bisect_left(self._ends, at)
            room = self._ends[token] - at - len(part)
            if room == 0 or (room > 0 and not at_end):  # below 0: `part` has the byte between pieces in it
                tokens.add(token)
                at = self._ends[token]
            at = self._text.find(wanted, at + 1)
        return tokens


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
    limit = _tokens_since_break(backwards, breakers)
    if limit < allowed_length:
        return candidates
    # Beyond this exponent the penalty would overflow float32, so longer repetitions are all alike.
    max_exponent = int(_FLOAT32_MAX_LOG / math.log(base)) if base > 1.000001 else limit
    lengths = _repeat_lengths(backwards, min(limit, allowed_length + max_exponent))
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
    history = backwards.tolist()
    for age, token in enumerate(history):
        matching = [
            len(tail)
            for tail in breakers.get(token, ())
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
