"""A firing trace under placements: how many of the neurons that a token needs are on the GPU, as the runtime has them
there by groups, and what has to go there for it.

Nearly every group has some neuron that a token needs, so that it counts how many. Clairvoyant: on the GPU are those
groups that the token will need most of, which no placement by groups surpasses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement.heat import Heat
from powerinfer_cli.placement.heat_rule import LRU, MOST, RULES, HeatRule
from solver.placing.replay import PolicyChoice, choice_of

__all__ = ["GroupUses", "NeuronsFound", "choose_neuron_policy", "replay_neurons"]

Counts = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class GroupUses:
    """Of a layer: counts [tokens, groups], how many neurons of a group a token needs; the first n_hot groups are on the
    GPU at first. known [groups]: how many a token needs as a rule, None: not known.
    """

    counts: Counts
    n_hot: int
    known: npt.NDArray[np.float64] | None

    @classmethod
    def of(
        cls,
        fired: npt.NDArray[np.bool_],
        order: npt.NDArray[np.int32],
        begins: tuple[range, range],
        uses: npt.NDArray[np.float64] | None,
    ) -> "GroupUses":
        """fired [tokens, n_ff]. order: of the neurons, by which groups begin as `group_begins` says. uses [n_ff]."""
        hot, cold = begins
        size = hot.step
        groups = np.stack([order[begin : begin + size] for begin in (*hot, *cold)])
        counts = fired[:, groups].sum(axis=2, dtype=np.int16)
        return cls(counts, len(hot), None if uses is None else uses[groups].sum(axis=1))


@dataclass(frozen=True)
class NeuronsFound:
    """Over so many tokens: neurons needed, those of them on the GPU, and groups that went there."""

    needed: int
    found: int
    uploads: int
    tokens: int

    @property
    def hit_rate(self) -> float:
        return self.found / max(1, self.needed)

    @property
    def uploads_per_token(self) -> float:
        """In all layers together."""
        return self.uploads / max(1, self.tokens)


def replay_neurons(layers: Sequence[GroupUses], rule: HeatRule | None, uploads: int = MOST) -> NeuronsFound:
    """rule: None: what is hot stays. uploads: at most so many a token, in all layers together."""
    n_groups, tokens = [one.counts.shape[1] for one in layers], len(layers[0].counts)
    counts = np.zeros((tokens, len(layers), max(n_groups)), np.int16)
    for layer, one in enumerate(layers):
        counts[:, layer, : n_groups[layer]] = one.counts
    hot = [np.arange(one.n_hot, dtype=np.int32) for one in layers]
    heat, found, done = Heat(rule or LRU, hot, n_groups, [one.known for one in layers]), 0, 0
    for of_token in counts:
        found += int(of_token[heat.hot].sum())
        if rule is not None:
            heat.add_counts(of_token[None])
            done += len(heat.swaps(uploads))
    return NeuronsFound(int(counts.sum()), found, done, tokens)


def replay_foreseen(layers: Sequence[GroupUses]) -> NeuronsFound:
    """By who knows what comes."""
    found = done = 0
    for one in layers:
        there = np.arange(one.counts.shape[1]) < one.n_hot
        for counts in one.counts:
            best = np.zeros_like(there)
            best[np.lexsort((~there, -counts))[: one.n_hot]] = True
            found += int(counts[best].sum())
            done += int((best & ~there).sum())
            there = best
    return NeuronsFound(sum(int(one.counts.sum()) for one in layers), found, done, len(layers[0].counts))


def choose_neuron_policy(layers: Sequence[GroupUses], uploads: int = MOST) -> PolicyChoice:
    """Of the layers that can adapt. uploads: of heat, as many as go to the GPU a token."""
    heated = [(replay_neurons(layers, rule, uploads), rule) for rule in RULES]
    static, recent = replay_neurons(layers, None), replay_neurons(layers, LRU)
    return choice_of("neurons", static, recent, heated, replay_foreseen(layers))
