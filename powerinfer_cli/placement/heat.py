"""Adaptive placement: which groups of neurons, or experts, a GPU holds, by how often they were used lately.

A layer has as many hot groups as the plan gave it. Each use adds 1 to a group's heat, and all heat halves every
`half_life` tokens. A cold group that is hotter than the coldest hot one by a margin takes its place. Only tokens are
counted, never time, so the same tokens have the same swaps on every run, however they are cut into steps of one token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement.heat_rule import MOST, HeatRule
from powerinfer_cli.placement.plan import Neurons

__all__ = ["Heat", "Swap"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Swap:
    """In a layer, counted among those that adapt, a cold group takes the place of a hot one."""

    layer: int
    cold: int
    hot: int


class Heat:
    """Of all layers that adapt, L of them."""

    def __init__(
        self,
        rule: HeatRule,
        hot: Sequence[Neurons],
        n_groups: Sequence[int],
        uses: Sequence[npt.NDArray[np.float64] | None] | None = None,
    ) -> None:
        """hot: each layer's hot groups as they are now; n_groups: how many it has. uses: of each layer [n_groups], how
        often a token uses each, where that is known; heat begins as if they had been used so before. Else the hot ones
        begin as if each had been used once.
        """
        self.rule = rule
        shape = len(hot), max(n_groups, default=0) + 1  # the last column takes what is no group
        self._heat, self._hot = np.zeros(shape), np.zeros(shape, np.bool_)
        self._cold = np.zeros(shape, np.bool_)
        self._token = 0
        steady = 1 / (1 - 2 ** (-1 / rule.half_life))  # what a use every token comes to
        for layer, (groups, count) in enumerate(zip(hot, n_groups, strict=True)):
            self._hot[layer, groups] = True
            self._cold[layer, :count] = ~self._hot[layer, :count]
            known = uses[layer] if uses is not None else None
            self._heat[layer, :count] = self._hot[layer, :count] if known is None else known * steady
        self._layers = np.arange(len(hot))

    @property
    def hot(self) -> npt.NDArray[np.bool_]:
        """[L, most groups]"""
        return self._hot[:, :-1]

    def add(self, chosen: Ints) -> None:
        """By each token, in order, a use of its chosen groups [T, L, k], none of them twice in a layer; -1: none."""
        for groups in chosen:
            self._heat[self._layers[:, None], groups] += self._weight()
            self._forget()

    def add_counts(self, counts: npt.NDArray[np.integer | np.floating]) -> None:
        """By each token, in order, so many uses of each group [T, L, most groups]."""
        for uses in counts:
            self._heat[:, :-1] += self._weight() * uses
            self._forget()

    def swaps(self, most: int = MOST) -> list[Swap]:
        """What follows from all that was added, `most` at most, those that gain most first; from now on these groups
        are hot, and cold.
        """
        found: list[Swap] = []
        margin, at = self.rule.margin * self._weight(), self._layers
        for _ in range(min(self.rule.uploads, self._heat.shape[1])):
            colds = np.where(self._cold, self._heat, -np.inf).argmax(1)
            hots = np.where(self._hot, self._heat, np.inf).argmin(1)
            gained = self._heat[at, colds] - self._heat[at, hots]
            worth = (gained > margin) & self._cold[at, colds] & self._hot[at, hots]
            layers = np.argsort(-gained, kind="stable")
            layers = layers[worth[layers]][: most - len(found)]
            if not layers.size:
                break
            for layer in layers:
                cold, hot = int(colds[layer]), int(hots[layer])
                self._hot[layer, [cold, hot]] = True, False
                self._cold[layer, [cold, hot]] = False, True
                found.append(Swap(int(layer), cold, hot))
        return found

    def _weight(self) -> float:
        """What a use adds now: it grows instead of all heat shrinking, until that is halved, which is exact."""
        return float(2.0 ** (self._token % self.rule.half_life / self.rule.half_life))

    def _forget(self) -> None:
        self._token += 1
        if self._token % self.rule.half_life == 0:
            self._heat *= 0.5
