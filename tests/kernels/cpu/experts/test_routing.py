"""Which experts tokens need, against the plain twin; and the tokens' pairs by expert."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from powerinfer_cli.kernels import reference
from powerinfer_cli.kernels.cpu.experts.routing import N_PAIRS, N_TILES, N_USED, Routes, make_routes, route
from powerinfer_cli.kernels.formats.panels import TOKENS
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model.blocks import Gating, Linear, Router
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs
TEAM = team_of(3)
F32 = npt.NDArray[np.float32]


def router(n_chosen: int, gating: Gating = Gating.SOFTMAX, **more: Any) -> Router[Any, Any]:
    return Router(Linear(None, None), n_chosen, gating, **more)


def routed(logits: F32, made: Router[Any, F32], threads: int = 2) -> Routes:
    """With room for a token more, of which nothing is written."""
    tokens, n_experts = logits.shape
    routes = make_routes(tokens + 1, n_experts, made.n_chosen)
    routes.logits.floats[:tokens, :n_experts] = logits
    routes.chosen[:], routes.weights[:] = -1, np.nan
    state = np.array([tokens, 0], np.int64)
    TEAM.run(assemble(route(state, made, routes)).table, threads)
    assert (routes.chosen[tokens:] == -1).all()
    assert np.isnan(routes.weights[tokens:]).all()
    return routes


def check(logits: F32, made: Router[Any, F32]) -> Routes:
    routes, tokens = routed(logits, made), len(logits)
    bias, gains = (None if one is None else torch.from_numpy(one) for one in (made.choice_bias, made.gains))
    chosen, weights = reference.route(torch.from_numpy(logits), replace(made, choice_bias=bias, gains=gains))
    np.testing.assert_array_equal(routes.chosen[:tokens], chosen)
    np.testing.assert_allclose(routes.weights[:tokens], weights, rtol=2e-6, atol=1e-30)
    check_pairs(routes, tokens)
    return routes


def check_pairs(routes: Routes, tokens: int) -> None:
    """They are sorted by expert and then by token, and cut into tiles."""
    chosen = routes.chosen[:tokens].reshape(-1)
    order = np.argsort(chosen, kind="stable")
    sizes = np.bincount(chosen, minlength=routes.n_experts)
    begins = np.cumsum(sizes) - sizes
    assert routes.counts[N_PAIRS] == chosen.size
    np.testing.assert_array_equal(routes.order[: chosen.size], order)
    np.testing.assert_array_equal(routes.starts, [*begins, chosen.size])
    assert routes.used[: routes.counts[N_USED]].tolist() == sizes.nonzero()[0].tolist()
    tiles = [
        (begin + at, min(TOKENS, size - at))
        for begin, size in zip(begins, sizes, strict=True)
        for at in range(0, size, TOKENS)
    ]
    assert list(map(tuple, routes.tiles[: routes.counts[N_TILES]])) == tiles
    firsts = np.cumsum(-(-sizes // TOKENS)) + sizes // -TOKENS
    np.testing.assert_array_equal(routes.tile_starts, firsts)


def test_what_is_near() -> None:
    """As transformers' PhiMoE weighs its two, the second without the first."""
    from transformers.models.phimoe.modeling_phimoe import sparsemixer

    logits = (1 + 0.02 * normal(200, 6, 5)).astype(np.float32)
    logits[100:] -= 2.0
    routes = check(logits, router(2, Gating.NEAR))
    weights, chosen = sparsemixer(torch.from_numpy(logits), 0.01, False)
    order = chosen.argsort(1)
    np.testing.assert_array_equal(routes.chosen[:200], chosen.gather(1, order))
    np.testing.assert_allclose(routes.weights[:200], weights.gather(1, order), rtol=1e-5)
    assert (routes.weights[:200] < 0.9).mean() > 0.3


def normal(tokens: int, n_experts: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal((tokens, n_experts)).astype(np.float32)


@pytest.mark.parametrize("gating", Gating)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("tokens", "n_experts", "n_chosen"), [(1, 1, 1), (1, 8, 2), (5, 33, 33), (40, 128, 8)])
def test_choice_and_weights(gating: Gating, normed: bool, tokens: int, n_experts: int, n_chosen: int) -> None:
    check(normal(tokens, n_experts), router(n_chosen, gating, normed=normed, scale=2.5))


def test_a_bias_counts_for_the_choice_alone() -> None:
    bias = np.zeros(16, np.float32)
    bias[[3, 11]] = 10.0
    routes = check(normal(20, 16), router(2, Gating.SIGMOID, choice_bias=bias))
    assert (routes.chosen[:20] == [3, 11]).all()
    assert (routes.weights[:20] < 1).all()


def test_gains_count_in_the_end() -> None:
    """Behind the sum of weights."""
    gains = np.arange(1, 17, dtype=np.float32)
    routes = check(normal(20, 16), router(3, normed=True, gains=gains))
    np.testing.assert_allclose((routes.weights[:20] / gains[routes.chosen[:20]]).sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("best", [2, 1])
@pytest.mark.parametrize(("n_groups", "used"), [(8, 3), (4, 1), (2, 2), (24, 9)])
def test_groups(n_groups: int, used: int, best: int) -> None:
    logits, bias = normal(50, 24), normal(1, 24, seed=1)[0]
    routes = check(
        logits,
        router(
            3,
            Gating.SIGMOID,
            choice_bias=bias,
            n_groups=n_groups,
            n_groups_used=used,
            group_best=best,
            normed=True,
        ),
    )
    groups = routes.chosen[:50] // (24 // n_groups)
    assert max(len(set(row)) for row in groups.tolist()) <= used


@pytest.mark.parametrize("gating", Gating)
def test_of_equals_the_first_are_chosen(gating: Gating) -> None:
    logits = np.zeros((3, 40), np.float32)
    logits[1, 20:] = 1.0
    logits[2, [5, 39]] = 1.0
    routes = check(logits, router(4, gating))
    assert routes.chosen[:3].tolist() == [[0, 1, 2, 3], [20, 21, 22, 23], [0, 1, 5, 39]]


def test_far_from_each_other() -> None:
    """A softmax that leaves nothing to most of them, and weights that are all nearly 0."""
    logits = np.array([[-1e4, 1e4, 0, 5e3], [3e38, -3e38, 0, 1]], np.float32)
    check(logits, router(3, normed=True))
    check(np.full((2, 4), -60.0, np.float32), router(2, Gating.SIGMOID, normed=True))


@pytest.mark.parametrize("gating", Gating)
def test_no_numbers_choose_some_experts_all_the_same(gating: Gating) -> None:
    logits = normal(4, 8)
    logits[0], logits[1, 2], logits[2, :7], logits[3, 0] = np.nan, np.nan, -np.inf, np.inf
    made = router(3, gating, n_groups=4, n_groups_used=2)
    routes = routed(logits, made)
    for row in routes.chosen[:4].tolist():
        assert sorted(set(row)) == row
        assert 0 <= row[0] < row[-1] < 8
    np.testing.assert_array_equal(routes.chosen[:4], reference.route(torch.from_numpy(logits), made)[0])


def test_same_bits_whatever_the_threads_and_the_company() -> None:
    logits, made = normal(30, 64), router(6, normed=True)
    one, three, some = routed(logits, made, 1), routed(logits, made, 3), routed(logits[7:9], made)
    for name in ("chosen", "order", "starts", "tiles"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    np.testing.assert_array_equal(one.weights[:30], three.weights[:30])
    np.testing.assert_array_equal(some.weights[:2], one.weights[7:9])
