"""Experts: of each layer a router chooses k, so that what is read is known, but not where it lies."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from powerinfer_cli.placement import (
    ActivationStatistics,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    RowReading,
    main_memory_plan,
)
from solver.placing import Work, simulate
from solver.placing.costs import Activity, LayerCosts, always_active
from solver.placing.device_profile import load_profile
from solver.placing.greedy import fill_up, solve_greedy
from solver.placing.milp import solve_milp
from solver.placing.planning import PlanSettings, make_plan
from solver.placing.problem import lower_bound, options_by_time
from tests.helpers.placing.placement_problems import placed_problem, profile

E, K, EXPERT = 12, 3, 1000
LAYER = LayerBytes(0, 0, 0, EXPERT, E, first=EXPERT, reading=RowReading.CHOSEN, chosen=K)


def skewed(rng: np.random.Generator, n: int = E, k: int = K) -> np.ndarray:
    """How often each is chosen, in any order; k a token, none of them always."""
    wanted = np.arange(1, n + 1) ** -0.7
    for _ in range(20):
        wanted = np.minimum(wanted * k / wanted.sum(), 0.95)
    return rng.permutation(wanted)


def test_what_a_token_reads() -> None:
    """By hand: 3 of 12 experts, twice as fast as a matrix is read; the shared one beside them."""
    on = profile(gpu=4000.0, cpu=1000.0, fixed=0.5)
    on = replace(on, cpu=replace(on.cpu, rates={"any": replace(on.cpu.rates["any"], experts=2000.0)}, experts=0.25))
    layer = replace(LAYER, attention=2000, predictor=500, shared=400)
    work = Work(ModelBytes((layer,), 0, 0), always_active([layer]), "any", 0)
    main = simulate(main_memory_plan(1), work, on).layers[0]
    assert main.before == pytest.approx((2000 + 500 - 400) / 1000)
    assert main.cpu == main.ffn == pytest.approx(3 * 1000 / 2000 + 400 / 1000 + 0.25)
    hot = LayerPlacement(0, np.array([1, 2, 7, 9], np.int32))
    some = simulate(Plan((9,), (hot,), 0, "milp", ""), work, on).layers[0]
    assert some.gpu == pytest.approx(4 * K / E * 1000 / 4000 + 400 / 4000 + 0.5)
    assert some.cpu == pytest.approx(8 * K / E * 1000 / 2000 + 0.25)
    assert some.covered == pytest.approx(4 / 12)
    assert max(some.gpu, some.cpu) < some.ffn < some.gpu + some.cpu
    alone = simulate(Plan((9,), (LayerPlacement(0, hot.hot[:0]),), 0, "milp", ""), work, on).layers[0]
    assert (alone.gpu, alone.ffn) == (pytest.approx(400 / 4000), pytest.approx(K * 1000 / 2000 + 0.25))
    rehearsed = replace(on, link=replace(on.link, rehearsed=True))
    in_turn = simulate(Plan((9,), (hot,), 0, "milp", ""), work, rehearsed).layers[0]
    assert in_turn.ffn == pytest.approx(some.gpu + some.cpu)


def test_the_mean_of_the_larger_as_drawn() -> None:
    """As many are chosen for every token: if few of the hot are, many of the cold are.

    Three are few for a normal law.
    """
    rng = np.random.default_rng(0)
    keys = rng.gumbel(size=(100_000, E)) + np.log(skewed(rng))
    chosen = np.zeros(keys.shape, bool)
    np.put_along_axis(chosen, np.argsort(-keys, axis=1)[:, :K], True, axis=1)
    costs = LayerCosts.of(LAYER, Activity((chosen.mean(0),)), 0, profile(3e3, 1e3), 0, "any", 0)
    for n in (1, 3, 6, 9):
        hot = chosen[:, costs.order[:n]].sum(1)
        wanted = np.maximum(hot * EXPERT / 3e3, (K - hot) * EXPERT / 1e3).mean()
        assert costs.time(np.array([n]))[0] == pytest.approx(wanted, rel=0.06)
        other = costs.with_hot(np.sort(costs.order[-n:]).astype(np.int32))
        hot = chosen[:, costs.order[-n:]].sum(1)
        wanted = np.maximum(hot * EXPERT / 3e3, (K - hot) * EXPERT / 1e3).mean()
        assert other.time(np.array([n]))[0] == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_solvers_agree_with_trying_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    on = profile(float(rng.choice([2e3, 1e4])), 1e3, handover=float(rng.choice([0.0, 0.3])), fixed=0.05)
    sizes = ModelBytes((LAYER, LAYER, replace(LAYER, neuron=1500)), 0, 0)
    found = placed_problem(sizes, Activity(tuple(skewed(rng) for _ in range(3))), [int(rng.integers(5, 30)) * 1000], on)
    choices = (dict(enumerate(counts)) for counts in itertools.product(range(E + 1), repeat=3))
    wanted = min(found.time(hot) for hot in choices if found.used(hot)[0] <= found.room[0])
    options = {i: options_by_time(layer) for i, layer in found.layers.items()}
    assert solve_milp(found, options).cost == pytest.approx(wanted, rel=2e-3)
    greedy = solve_greedy(found, options)
    assert found.time(fill_up(found, greedy.hot)) <= wanted * 1.05
    assert max(greedy.bound, lower_bound(found)) <= wanted * (1 + 1e-9)


def test_plans_for_experts() -> None:
    """Qwen3-30B-A3B's sizes: better than the best `--n-cpu-moe`, the more so the more is known of their use."""
    layer = LayerBytes(18 << 20, 1 << 20, 8 << 20, 2_654_208, 128, reading=RowReading.CHOSEN, chosen=8)
    sizes = ModelBytes((layer,) * 48, 170 << 20, 300 << 20)
    budgets, on = [8 << 30], load_profile("rtx-3060-12gb-ddr4")
    settings = PlanSettings("Q4_0", 2048)
    blind = make_plan(sizes, None, budgets, on, settings)
    (name,) = (name for name in blind.others if name.startswith("--n-cpu-moe"))
    assert name == "--n-cpu-moe 29"
    assert set(blind.others) == {"greedy", "frequency", "layers", name}
    assert blind.remarks[-1].startswith("nobody counted which experts")
    rng = np.random.default_rng(0)
    counts = tuple(np.round(skewed(rng, 128, 8) * 20_000) for _ in range(48))
    known = make_plan(sizes, ActivationStatistics(counts, 20_000), budgets, on, settings)
    assert known.prediction.seconds < 0.95 * blind.prediction.seconds < 0.95 * blind.others[name].seconds
    for found in (blind, known):
        assert found.bound <= found.prediction.seconds <= found.others["greedy"].seconds * (1 + 1e-6)
        assert found.gap < 0.02
