"""Which experts each token of a batch needs, and the batch's tokens by expert.

A pair is a token and one of its experts: pair t * n_chosen + j is token t's j-th, experts ascending. Pairs are then
sorted by expert, those of an expert by token, so that whoever computes experts goes over them in this order, and so
adds up a token's experts in the same order whoever else is in the batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import exp
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, make_vectors
from powerinfer_cli.kernels.formats.panels import TOKENS
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    f32,
    first,
    first_or,
    float_of,
    i32,
    i64,
    largest,
    load_f32,
    maximum,
    reciprocal,
    splat,
    store_f32,
    total,
    zero,
)
from powerinfer_cli.model.blocks import LEAST_SUM, LOWEST_SCORE, NEAR, Gating, Router

__all__ = ["N_PAIRS", "N_TILES", "N_USED", "Routes", "make_routes", "most_tiles", "route", "sort_pairs"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]

_GATINGS = {Gating.SOFTMAX: 0, Gating.SIGMOID: 1, Gating.SOFTMAX_OF_CHOSEN: 2, Gating.NEAR: 3}
_SOFTMAX, _SIGMOID, _OF_CHOSEN, _NEAR = range(4)
_LOWEST, _TAKEN = (
    np.float32(LOWEST_SCORE),
    np.float32(-3.3e38),
)  # none is lower than the one, nor taken at the other
_LEAST_SUM, _NEAR_BY = np.float32(LEAST_SUM), np.float32(NEAR)

# In `Routes.counts`. The first is where operations over vectors look for how many there are: here one a pair.
N_PAIRS, N_USED, N_TILES = N_TOKENS, N_TOKENS + 1, N_TOKENS + 2

ROUTE = operands(
    "state logits stride n_experts n_chosen gating bias n_groups n_groups_used group_best normed scale gains ranked "
    "chosen weights"
)
SORT = operands("state n_experts n_chosen chosen numbers starts order used tiles tile_starts counts")


@dataclass(frozen=True)
class Routes:
    """Room for what a router says of up to so many tokens, and where to find an expert's tokens.

    counts [3]: pairs, experts with any, tiles of their tokens.
    """

    n_experts: int
    n_chosen: int
    logits: Vectors
    ranked: Floats  # [tokens, 2 * padded(E)]: by what they are chosen, and the same of groups
    chosen: Small  # [tokens, n_chosen], ascending
    weights: Floats  # [tokens, n_chosen]
    starts: Small  # [E + 1]: where an expert's pairs are in `order`
    order: Small  # [tokens * n_chosen]: pairs, sorted by expert
    used: Small  # [E]: the experts that have any, ascending
    tiles: Small  # [most, 2]: where in `order` a tile begins, how many pairs it has: TOKENS, or less at an expert's end
    tile_starts: Small  # [E]: an expert's first tile
    counts: Ints


def make_routes(n_tokens: int, n_experts: int, n_chosen: int) -> Routes:
    """For up to so many tokens."""
    pairs = n_tokens * n_chosen
    logits = make_vectors(n_tokens, n_experts, records=False)
    return Routes(
        n_experts,
        n_chosen,
        logits,
        np.zeros((n_tokens, 2 * logits.stride), np.float32),
        np.zeros((n_tokens, n_chosen), np.int32),
        np.zeros((n_tokens, n_chosen), np.float32),
        np.zeros(n_experts + 1, np.int32),
        np.zeros(pairs, np.int32),
        np.zeros(n_experts, np.int32),
        np.zeros((most_tiles(n_tokens, n_experts, n_chosen), 2), np.int32),
        np.zeros(n_experts, np.int32),
        np.zeros(3, np.int64),
    )


def most_tiles(n_tokens: int, n_experts: int, n_chosen: int) -> int:
    """Of all experts' tokens together: each expert's last one may be short."""
    pairs = n_tokens * n_chosen
    return pairs // TOKENS + min(n_experts, pairs)


def route(state: Ints, router: Router[Any, Floats], routes: Routes) -> list[Operation]:
    """From the router's products with the batch's tokens, `routes.logits`, to all the rest of `routes`."""
    r = routes
    return [
        Operation.of(
            _route,
            ROUTE,
            state=state,
            logits=r.logits.floats,
            stride=r.logits.stride,
            n_experts=r.n_experts,
            n_chosen=r.n_chosen,
            gating=_GATINGS[router.gating],
            bias=router.choice_bias,
            n_groups=router.n_groups,
            n_groups_used=router.n_groups_used,
            group_best=router.group_best,
            normed=router.normed,
            scale=float(router.scale),
            gains=router.gains,
            ranked=r.ranked,
            chosen=r.chosen,
            weights=r.weights,
        ),
        sort_pairs(state, routes),
    ]


def sort_pairs(state: Ints, routes: Routes, numbers: Small | None = None) -> Operation:
    """From `routes.chosen` to what follows it there. numbers [all experts]: which of the n_experts that are here a
    chosen one is, -1: it is not here, and its pairs are left out; None: all are here.
    """
    r = routes
    return Operation.of(
        _sort,
        SORT,
        state=state,
        n_experts=r.n_experts,
        n_chosen=r.n_chosen,
        chosen=r.chosen,
        numbers=numbers,
        starts=r.starts,
        order=r.order,
        used=r.used,
        tiles=r.tiles,
        tile_starts=r.tile_starts,
        counts=r.counts,
    )


@helper
def _soften(x, n):
    """The first n numbers, there is room for whole 16s, to their softmax."""
    peak, sums = splat(_LOWEST), zero()
    for i in range(0, n, 16):
        peak = maximum(peak, first_or(load_f32(x, i), n - i, splat(_LOWEST)))
    highest = splat(largest(peak))
    for i in range(0, n, 16):
        value = first(exp(load_f32(x, i) - highest), n - i)
        store_f32(x, i, value)
        sums = sums + value
    inverse = splat(np.float32(1.0) / total(sums))
    for i in range(0, n, 16):
        store_f32(x, i, load_f32(x, i) * inverse)


@helper
def _sigmoids(x, n):
    one = splat(np.float32(1.0))
    for i in range(0, n, 16):
        store_f32(x, i, reciprocal(one + exp(zero() - load_f32(x, i))))


@helper
def _best(ranked, begin, end):
    """The first of the highest that are not taken."""
    best = begin - 1
    for e in range(begin, end):
        if ranked[e] > _TAKEN and (best < begin or ranked[e] > ranked[best]):
            best = e
    return best


@helper
def _near(scores, ranked, n, best):
    """The best one's softmax among those that are near it and not taken."""
    top, sums = scores[best], np.float32(0.0)
    for e in range(n):
        if ranked[e] > _TAKEN and top - scores[e] <= _NEAR_BY * max(abs(scores[e]), top):
            sums += largest(exp(splat(scores[e] - top)))
    return np.float32(1.0) / sums


@helper
def _two_best(ranked, begin, end):
    """The sum of the two highest."""
    one, two = _LOWEST, _LOWEST
    for e in range(begin, end):
        if ranked[e] > one:
            one, two = ranked[e], one
        elif ranked[e] > two:
            two = ranked[e]
    return one + two if end - begin > 1 else one


@helper
def _leave_groups(ranked, room, n_experts, n_groups, n_used, group_best):
    """Take out the experts of all groups but the best. room: for n_groups numbers."""
    size = n_experts // n_groups
    for g in range(n_groups):
        best = _two_best(ranked, g * size, g * size + size)
        if group_best == 1:
            best = ranked[_best(ranked, g * size, g * size + size)]
        room[g] = max(best, _LOWEST)
    for _ in range(n_used):
        room[_best(room, 0, n_groups)] = np.float32(_TAKEN)
    for g in range(n_groups):
        if room[g] > _TAKEN:
            for e in range(g * size, g * size + size):
                ranked[e] = _LOWEST


@helper
def _put_in_order(chosen, weights, j, expert, weight):
    """Among the j before it, ascending."""
    while j > 0 and chosen[j - 1] > expert:
        chosen[j], weights[j] = chosen[j - 1], weights[j - 1]
        j -= 1
    chosen[j], weights[j] = expert, weight


@helper
def _soften_weights(weights, n, room):
    for j in range(n):
        room[j] = weights[j]
    _soften(room, n)
    for j in range(n):
        weights[j] = room[j]


@helper
def _scale_weights(weights, n, scale, normed):
    """By a factor, and by their sum."""
    whole = np.float32(1.0)
    if normed:
        whole = np.float32(0.0)
        for j in range(n):
            whole += weights[j]
        whole = max(whole, _LEAST_SUM)
    for j in range(n):
        weights[j] = weights[j] / whole * scale


@kernel(OPERATION, "route")
def _route(op_address, worker):
    """A piece is a token."""
    op = i64(op_address)
    state, stride, n_experts, n_chosen = i64(op[ROUTE.state]), op[ROUTE.stride], op[ROUTE.n_experts], op[ROUTE.n_chosen]
    gating, bias, n_groups, scale = op[ROUTE.gating], op[ROUTE.bias], op[ROUTE.n_groups], float_of(op[ROUTE.scale])
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        scores, ranked = f32(op[ROUTE.logits] + t * stride * 4), f32(op[ROUTE.ranked] + t * stride * 8)
        chosen, weights = i32(op[ROUTE.chosen] + t * n_chosen * 4), f32(op[ROUTE.weights] + t * n_chosen * 4)
        for e in range(n_experts):
            scores[e] = min(scores[e], -_LOWEST) if scores[e] > _LOWEST else _LOWEST
        if gating == _SOFTMAX:
            _soften(scores, n_experts)
        elif gating == _SIGMOID:
            _sigmoids(scores, n_experts)
        for e in range(n_experts):
            ranked[e] = max(scores[e] + f32(bias)[e] if bias else scores[e], _LOWEST)
        if n_groups > 1:
            room = f32(op[ROUTE.ranked] + t * stride * 8 + stride * 4)
            _leave_groups(ranked, room, n_experts, n_groups, op[ROUTE.n_groups_used], op[ROUTE.group_best])
        for j in range(n_chosen):
            e = _best(ranked, 0, n_experts)
            weight = _near(scores, ranked, n_experts, e) if gating == _NEAR else scores[e]
            ranked[e] = _TAKEN
            _put_in_order(chosen, weights, j, np.int32(e), weight)
        if gating == _OF_CHOSEN:
            _soften_weights(weights, n_chosen, ranked)
        _scale_weights(weights, n_chosen, scale, op[ROUTE.normed])
        if op[ROUTE.gains]:
            for j in range(n_chosen):
                weights[j] *= f32(op[ROUTE.gains])[chosen[j]]


@helper
def _number(op, chosen, pair):
    """A pair's expert among those that are here, or -1."""
    e = np.int64(chosen[pair])
    return np.int64(i32(op[SORT.numbers])[e]) if op[SORT.numbers] else e


@kernel(OPERATION, "sort_pairs")
def _sort(op_address, worker):
    """One piece: there are few pairs, and they are counted twice."""
    op = i64(op_address)
    if take(op):
        return
    n_experts, n_chosen = op[SORT.n_experts], op[SORT.n_chosen]
    n_pairs = i64(op[SORT.state])[N_TOKENS] * n_chosen
    chosen, starts, order = i32(op[SORT.chosen]), i32(op[SORT.starts]), i32(op[SORT.order])
    used, tiles, tile_starts = i32(op[SORT.used]), i32(op[SORT.tiles]), i32(op[SORT.tile_starts])
    counts = i64(op[SORT.counts])
    for e in range(n_experts + 1):
        starts[e] = 0
    for pair in range(n_pairs):
        e = _number(op, chosen, pair)
        if e >= 0:
            starts[e + 1] += 1
    n_used, n_tiles, begin = np.int64(0), np.int64(0), np.int64(0)
    for e in range(n_experts):
        size = np.int64(starts[e + 1])
        if size:
            used[n_used] = e
            n_used += 1
        tile_starts[e] = n_tiles
        for at in range(0, size, TOKENS):
            tiles[2 * n_tiles], tiles[2 * n_tiles + 1] = begin + at, min(TOKENS, size - at)
            n_tiles += 1
        starts[e + 1] = begin  # until its pairs are put there, one after the other
        begin += size
    for pair in range(n_pairs):
        e = _number(op, chosen, pair)
        if e >= 0:
            order[starts[e + 1]] = pair
            starts[e + 1] += 1
    counts[N_PAIRS], counts[N_USED], counts[N_TILES] = begin, n_used, n_tiles
