"""Tokens that somebody finds likeliest, one after the other, of several texts side by side."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from powerinfer_cli.runtime.backend import Logits

__all__ = ["Following", "likeliest_chains"]

Following: TypeAlias = dict[int, Logits]
"""By sequence, the logits [n_vocab] behind its last token."""


def likeliest_chains(
    following: Following,
    most: Mapping[int, int],
    append: Callable[[Mapping[int, int]], Following],
    p_min: float,
    cost: float,
) -> dict[int, list[int]]:
    """Of each sequence up to so many tokens. append: a token to each of some sequences; the logits behind them.

    A chain ends before a token that is less likely than p_min, and where all of it is less likely to be right than one
    more token costs, in passes of a single token.
    """
    found: dict[int, list[int]] = {i: [] for i in following}
    chances = dict.fromkeys(following, 1.0)
    while following:
        going: dict[int, int] = {}
        for i, logits in following.items():
            token, chance = _likeliest(logits)
            chances[i] *= chance
            if chance < p_min or chances[i] < cost:
                continue
            found[i].append(token)
            if len(found[i]) < most[i]:
                going[i] = token
        following = append(going) if going else {}
    return found


def _likeliest(logits: Logits) -> tuple[int, float]:
    token = int(np.argmax(logits))
    return token, 1.0 / float(np.exp(logits - logits[token]).sum())
