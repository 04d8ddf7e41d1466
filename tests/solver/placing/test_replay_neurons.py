"""Replaying which neurons were needed, by groups, where the answer is known."""

import numpy as np
import pytest

from powerinfer_cli.placement import HeatRule, group_begins
from powerinfer_cli.placement.heat_rule import LRU
from solver.placing.replay import STATIC
from solver.placing.replay_neurons import GroupUses, choose_neuron_policy, replay_foreseen, replay_neurons


def uses(counts: list[list[int]], n_hot: int, known: list[float] | None = None) -> GroupUses:
    return GroupUses(np.array(counts, np.int16), n_hot, None if known is None else np.array(known))


def test_groups_lie_in_the_order_of_use() -> None:
    """Seven hot neurons make two groups of three, five cold ones one; what fills no group is in none."""
    order = np.array([9, 8, 7, 6, 5, 4, 3, 0, 1, 2, 10, 11], np.int32)
    fired = np.zeros((2, 12), np.bool_)
    fired[0, [9, 7, 4, 3, 0, 2]] = True
    fired[1, [1, 2, 10, 11]] = True
    found = GroupUses.of(fired, order, group_begins(7, 5, 3), np.arange(12.0))
    assert found.n_hot == 2
    assert found.counts.tolist() == [[2, 1, 2], [0, 0, 2]]
    assert found.known is not None
    assert found.known.tolist() == [24, 15, 3]


def test_what_is_found_by_hand() -> None:
    """Two layers; of the first the use moves from group 0 to group 2."""
    layers = [uses([[5, 1, 0], [1, 1, 6], [0, 1, 6]], 1), uses([[2, 2]] * 3, 1)]
    assert (static := replay_neurons(layers, None)).found == 5 + 1 + 0 + 3 * 2
    assert (static.needed, static.uploads, static.hit_rate) == (33, 0, 12 / 33)
    recent = replay_neurons(layers, LRU)
    assert (recent.found, recent.uploads) == (5 + 1 + 6 + 6, 1)
    best = replay_foreseen(layers)
    assert (best.found, best.uploads, best.uploads_per_token) == (5 + 6 + 6 + 6, 1, 1 / 3)


def test_no_more_go_there_than_can() -> None:
    layers = [uses([[0, 0, 9, 9]] * 4, 2)]
    slow = HeatRule(half_life=4, margin=0.5, uploads=1)
    assert replay_neurons(layers, slow).found == 0 + 9 + 18 + 18
    assert replay_neurons(layers * 2, HeatRule(4, 0.5, 2), uploads=1).uploads == 4


@pytest.mark.parametrize("seed", range(8))
def test_nobody_finds_more_than_who_knows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = [uses(rng.integers(0, 9, (40, n)).tolist(), n // 3) for n in (7, 9)]
    best = replay_foreseen(layers)
    for rule in (None, LRU, HeatRule(3, 0.2, 2)):
        assert replay_neurons(layers, rule).found <= best.found


def test_what_changes_is_taken_where_it_finds_more() -> None:
    """Halves of the groups that take turns for 100 tokens are followed; groups that stay as they are stay."""
    rng = np.random.default_rng(0)
    turns = np.arange(400)[:, None] // 100 % 2 == np.arange(8) // 4
    moving = uses(rng.binomial(64, np.where(turns, 0.4, 0.05)).tolist(), 4, [14.4] * 8)
    followed = choose_neuron_policy([moving])
    assert followed.rule is not None
    assert followed.replayed["heat"].hit_rate > followed.replayed[STATIC].hit_rate + 0.2
    assert followed.replayed["belady"].hit_rate >= followed.replayed["heat"].hit_rate
    assert followed.line().startswith("neurons that are on the GPU when they are needed: static ")
    shares = np.linspace(0.4, 0.05, 8)
    kept = choose_neuron_policy([uses(rng.binomial(64, shares, (400, 8)).tolist(), 4, (64 * shares).tolist())])
    assert (kept.best, kept.rule) == (STATIC, None)
