"""A recorded route trace under placements: how often a token's experts are on the GPU, and what has to go there for it.

Each layer has as many slots as it has hot experts to begin with. Static: they stay. By a rule of heat: as the runtime
does it, with the same object. Clairvoyant: of the experts that are there and those that a token has just needed, those
are kept that are needed again the soonest (Belady), which no policy surpasses that brings in only what was needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement import Neurons, RouteTrace
from powerinfer_cli.placement.heat import Heat
from powerinfer_cli.placement.heat_rule import LRU, MOST, RULES, HeatRule

__all__ = [
    "STATIC",
    "PolicyChoice",
    "Replayed",
    "choice_of",
    "choose_policy",
    "most_used",
    "replay",
    "replay_belady",
]

Ints = npt.NDArray[np.int64]
STATIC, RECENT, HEATED, BELADY = "static", "lru", "heat", "belady"
WORTH = 0.01  # of all uses, by which a placement that changes must hit more to be worth its uploads
MOST_TOKENS = 4096  # of a trace that are replayed: with 48 layers of 128 experts, of which 8 are chosen, some 8 s


@dataclass(frozen=True, eq=False)
class Replayed:
    """found [layers, most chosen + 1]: for how many tokens so many of the experts that they needed were on the GPU.
    chosen: a token's experts, by layer. uploads: experts that went there.
    """

    found: Ints
    chosen: tuple[int, ...]
    uploads: int

    @property
    def tokens(self) -> int:
        return int(self.found[0].sum())

    @property
    def hits(self) -> Ints:
        """By layer."""
        return self.found @ np.arange(self.found.shape[1])

    @property
    def hit_rate(self) -> float:
        """Of all uses of experts, 0..1."""
        return float(self.hits.sum() / max(1, self.tokens * sum(self.chosen)))

    @property
    def uploads_per_token(self) -> float:
        """In all layers together."""
        return self.uploads / max(1, self.tokens)


def most_used(counts: Sequence[npt.NDArray[np.float64]], slots: Sequence[int]) -> tuple[Neurons, ...]:
    """By layer, as many experts as it has slots, ascending: the most used, of equal ones the first."""
    return tuple(
        np.sort(np.argsort(-uses, kind="stable")[:count]).astype(np.int32)
        for uses, count in zip(counts, slots, strict=True)
    )


def replay(
    trace: RouteTrace,
    hot: Sequence[Neurons],
    rule: HeatRule | None = None,
    uses: Sequence[npt.NDArray[np.float64] | None] | None = None,
    uploads: int = MOST,
) -> Replayed:
    """hot: by layer with experts, those that are on the GPU at first. rule: None: they stay. uses: as `Heat` has it.
    uploads: at most so many a token, in all layers together.
    """
    chosen = _padded(trace)
    if rule is None:
        there = _mask(trace, hot)
        inside = there[np.arange(len(hot))[:, None], chosen].sum(axis=2)
        return Replayed(_histogram(trace, inside), trace.n_chosen, 0)
    heat, layers, done = Heat(rule, hot, trace.n_experts, uses), np.arange(len(hot))[:, None], 0
    inside = np.zeros(chosen.shape[:2], np.int64)
    real = chosen >= 0
    for t, groups in enumerate(chosen):
        inside[t] = (heat.hot[layers, groups] & real[t]).sum(axis=1)
        heat.add(groups[None])
        done += len(heat.swaps(uploads))
    return Replayed(_histogram(trace, inside), trace.n_chosen, done)


def replay_belady(trace: RouteTrace, hot: Sequence[Neurons]) -> Replayed:
    """By who knows what comes."""
    chosen, there = _padded(trace), _mask(trace, hot)
    following, coming = _next_uses(chosen, there.shape[1])
    layers = np.arange(len(hot))[:, None]
    slots = there[:, :-1].sum(axis=1)
    inside, uploads = np.zeros(chosen.shape[:2], np.int64), 0
    for t, groups in enumerate(chosen):
        inside[t] = there[layers, groups].sum(axis=1)
        coming[layers, groups] = following[t]
        for layer in np.flatnonzero(inside[t] < trace.n_chosen):
            now = there[layer]
            candidates = np.union1d(np.flatnonzero(now), groups[layer][groups[layer] >= 0])
            soonest = candidates[np.lexsort((~now[candidates], coming[layer, candidates]))[: slots[layer]]]
            uploads += int((~now[soonest]).sum())
            now[:] = False
            now[soonest] = True
    return Replayed(_histogram(trace, inside), trace.n_chosen, uploads)


class Outcome(Protocol):
    """Of a policy. hit_rate: of all uses, 0..1."""

    @property
    def hit_rate(self) -> float: ...

    @property
    def uploads_per_token(self) -> float: ...


@dataclass(frozen=True)
class PolicyChoice:
    """what: is placed, plural. replayed: by name, static, lru, heat by the best rule, and belady. best: the name of
    what is to be run, static or heat, which comes close to lru where that is good. rule: its own, None: static.
    """

    what: str
    replayed: Mapping[str, Outcome]
    best: str
    rule: HeatRule | None

    def line(self) -> str:
        """For people."""
        rates = ", ".join(f"{name} {one.hit_rate:.1%}" for name, one in self.replayed.items())
        which = f" with a half-life of {self.rule.half_life} tokens" if self.rule and self.best == HEATED else ""
        return f"{self.what} that are on the GPU when they are needed: {rates}; taken: {self.best}{which}"


def choose_policy(
    trace: RouteTrace, slots: Sequence[int], most: int = MOST_TOKENS, uploads: int = MOST
) -> PolicyChoice:
    """By the second half of a trace, with the experts that the first half used most on the GPU at first.

    slots: experts on the GPU, by layer with experts. most: tokens to replay. uploads: of heat, as many as go to the GPU
    a token.
    """
    first, second = _halves(trace, most)
    counts = first.counts()
    uses = [one / first.tokens for one in counts]
    hot = most_used(counts, slots)
    heated = [(replay(second, hot, rule, uses, uploads), rule) for rule in RULES]
    static, recent = replay(second, hot), replay(second, hot, LRU, uses)
    return choice_of("experts", static, recent, heated, replay_belady(second, hot))


def choice_of(
    what: str, static: Outcome, recent: Outcome, heated: Sequence[tuple[Outcome, HeatRule]], foreseen: Outcome
) -> PolicyChoice:
    """heated: by rule. foreseen: by who knows what comes. What changes is taken
    only where that hits more by a point.
    """
    heat, rule = max(heated, key=lambda one: one[0].hit_rate)
    found = {STATIC: static, RECENT: recent, HEATED: heat, BELADY: foreseen}
    if heat.hit_rate <= static.hit_rate + WORTH:
        return PolicyChoice(what, found, STATIC, None)
    return PolicyChoice(what, found, HEATED, rule)


def _halves(trace: RouteTrace, most: int) -> tuple[RouteTrace, RouteTrace]:
    """What comes before, and at most so many tokens of the rest."""
    middle = max(trace.tokens // 2, trace.tokens - most)
    before, behind = (tuple(one[part] for one in trace.chosen) for part in (slice(middle), slice(middle, None)))
    return replace(trace, chosen=before), replace(trace, chosen=behind)


def _padded(trace: RouteTrace) -> Ints:
    """[tokens, layers, most chosen]; -1 where a layer has fewer."""
    found = np.full((trace.tokens, len(trace.layers), max(trace.n_chosen)), -1, np.int64)
    for layer, chosen in enumerate(trace.chosen):
        found[:, layer, : chosen.shape[1]] = chosen
    return found


def _mask(trace: RouteTrace, hot: Sequence[Neurons]) -> npt.NDArray[np.bool_]:
    """[layers, most experts + 1]; the last column, of what is no expert, is never hot."""
    found = np.zeros((len(hot), max(trace.n_experts) + 1), np.bool_)
    for layer, experts in enumerate(hot):
        found[layer, experts] = True
    return found


def _next_uses(chosen: Ints, width: int) -> tuple[Ints, Ints]:
    """For each token, layer and chosen expert, when it is needed again, never: the number of tokens; and when each
    expert of a layer is needed first, [layers, width].
    """
    tokens, n_layer, _ = chosen.shape
    coming = np.full((n_layer, width), tokens, np.int64)
    found, layers = np.empty_like(chosen), np.arange(n_layer)[:, None]
    for t in range(tokens - 1, -1, -1):
        found[t] = coming[layers, chosen[t]]
        coming[layers, chosen[t]] = t
    return found, coming


def _histogram(trace: RouteTrace, inside: Ints) -> Ints:
    """inside [tokens, layers]: experts of a token that were there."""
    most = max(trace.n_chosen) + 1
    return np.stack([np.bincount(one, minlength=most) for one in inside.T])
