"""Replaying traces of which the answer is known."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.placement import RouteTrace
from powerinfer_cli.placement.heat_rule import LRU, HeatRule
from solver.placing.replay import STATIC, Replayed, choose_policy, most_used, replay, replay_belady
from tests.helpers.placing.route_traces import drawn_routes


def trace(*layers: list[list[int]], n_experts: int = 6) -> RouteTrace:
    """Of layers, each token's experts."""
    chosen = tuple(np.array(layer, np.uint8) for layer in layers)
    return RouteTrace(tuple(range(len(layers))), (n_experts,) * len(layers), chosen)


def hot(*layers: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(layer, np.int32) for layer in layers)


def test_static_hits_are_those_of_the_hot_ones() -> None:
    found = replay(trace([[0, 1], [1, 2], [4, 5]], [[3], [3], [0]]), hot([1, 4], [3]))
    assert found.hits.tolist() == [3, 2]
    assert found.found.tolist() == [[0, 3, 0], [1, 2, 0]]
    assert (found.hit_rate, found.uploads) == (5 / 9, 0)
    assert found.tokens == 3


def test_the_least_recently_used_goes() -> None:
    """0 1 2 0 1 2 with two slots misses always, from the third on; 0 1 0 2 0 1 keeps the 0."""
    found = replay(trace([[0], [1], [2], [0], [1], [2]]), hot([0, 1]), LRU)
    assert (found.hits.tolist(), found.uploads) == ([2], 4)
    found = replay(trace([[0], [1], [0], [2], [0], [1]]), hot([0, 1]), LRU)
    assert (found.hits.tolist(), found.uploads) == ([4], 2)


def test_who_knows_what_comes_keeps_it() -> None:
    """Of 0 1 2 0 1 2 with two slots: 2 stays away, as both others come before it. In 0 1 2 0 2 1 it takes 1's place."""
    for order, uploads in (([0, 1, 2, 0, 1, 2], 0), ([0, 1, 2, 0, 2, 1], 1)):
        found = replay_belady(trace([[one] for one in order]), hot([0, 1]))
        assert (found.hits.tolist(), found.uploads) == ([4], uploads)


def test_heat_has_a_margin_and_a_bound() -> None:
    """Two experts follow two others: one goes up for a token, the first when it has been used more by one, with older
    uses counting less: by the fifth. Not for a single use.
    """
    moved = trace([[0, 1]] * 8 + [[2, 3]] * 8)
    found = replay(moved, hot([0, 1]), HeatRule(half_life=4, margin=1.0, uploads=1))
    assert found.uploads == 2
    assert found.hits.tolist() == [16 + 1 + 2 + 2]
    assert replay(trace([[0, 1]] * 8 + [[2, 3]]), hot([0, 1]), HeatRule(4, 1.0, 1)).uploads == 0


def test_layers_may_choose_other_numbers() -> None:
    """An expert is hit in its own layer alone; a layer without a slot has no hit."""
    mixed = trace([[0, 1, 5]] * 3, [[5]] * 3, [[2]] * 3)
    for found, second in (
        (replay(mixed, hot([5], [0], []), LRU), 1),  # what is there has been used once, too
        (replay_belady(mixed, hot([5], [0], [])), 2),
    ):
        assert found.hits.tolist() == [3, second, 0]
        assert found.chosen == (3, 1, 1)


TOKENS = st.lists(st.sets(st.integers(0, 4), min_size=2, max_size=2).map(sorted), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(tokens=TOKENS, begin=st.sets(st.integers(0, 4), min_size=0, max_size=3))
def test_nobody_hits_more_than_who_knows(tokens: list[list[int]], begin: set[int]) -> None:
    """Every policy that brings in what a token has just needed, tried out."""
    reached = {frozenset(begin): 0}
    for needed in tokens:
        now: dict[frozenset[int], int] = {}
        for there, hits in reached.items():
            for kept in combinations(sorted(there | set(needed)), len(begin)):
                found = hits + len(there & set(needed))
                now[frozenset(kept)] = max(now.get(frozenset(kept), 0), found)
        reached = now
    made = trace(tokens, n_experts=5)
    assert replay_belady(made, hot(sorted(begin))).hits.tolist() == [max(reached.values())]
    for rule in (None, LRU):
        assert replay(made, hot(sorted(begin)), rule).hits[0] <= max(reached.values())


def test_what_changes_is_taken_where_it_hits_more() -> None:
    """Topics that change are followed; where nothing changes, the most used stay."""
    kept = choose_policy(drawn_routes(800, n_experts=12, n_chosen=2, skew=1.5, seed=5), [4])
    assert (kept.best, kept.rule) == (STATIC, None)
    assert kept.replayed[STATIC].tokens == 400
    followed = choose_policy(drawn_routes(1200, n_experts=12, n_chosen=2, skew=3, topics=4, seed=5), [4])
    assert followed.rule is not None
    rates = {name: one.hit_rate for name, one in followed.replayed.items()}
    assert rates["belady"] >= max(rates.values())
    assert rates[followed.best] > rates[STATIC] + 0.1
    assert rates["heat"] > rates["belady"] - 0.1
    assert f"taken: {followed.best}" in followed.line()


def test_most_used() -> None:
    found = most_used([np.array([1.0, 5, 5, 2]), np.array([1.0, 1, 1, 1])], [2, 1])
    assert [one.tolist() for one in found] == [[1, 2], [0]]


@pytest.mark.parametrize("found", [Replayed(np.zeros((1, 3), np.int64), (2,), 0)])
def test_nothing_replayed(found: Replayed) -> None:
    assert (found.hit_rate, found.uploads_per_token) == (0, 0)


@pytest.mark.parametrize("slots", [6, 20])
@pytest.mark.parametrize(
    ("skew", "topics", "stay"), [(1, 1, 200), (1, 4, 100), (4, 6, 12)], ids=["power", "drift", "short"]
)
def test_what_is_taken_is_near_the_best_there_is(skew: float, topics: int, stay: int, slots: int) -> None:
    """Never below static; within ten points of Belady where least recent use is, with few uploads a token."""
    drawn = drawn_routes(800, n_experts=32, n_chosen=4, layers=2, skew=skew, topics=topics, stay=stay, seed=2)
    found = choose_policy(drawn, [slots] * 2, uploads=6)
    rates = {name: one.hit_rate for name, one in found.replayed.items()}
    assert rates[found.best] >= rates[STATIC]
    assert rates[found.best] > rates["belady"] - 0.1 or rates["lru"] < rates["belady"] - 0.1
    assert found.replayed[found.best].uploads_per_token <= 6
