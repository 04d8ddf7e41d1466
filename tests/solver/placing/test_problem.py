"""The placement problem: known best answers, other solvers' answers, bounds that hold."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import optimize, sparse

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import LayerBytes, ModelBytes
from solver.placing.costs import Activity, LayerCosts
from solver.placing.greedy import fill_up, solve_greedy
from solver.placing.milp import solve_milp
from solver.placing.problem import (
    Options,
    Problem,
    Solution,
    lower_bound,
    options_by_frequency,
    options_by_time,
)
from tests.helpers.placing.placement_problems import NEURON, placed_problem, power_law, problem, profile, sizes


def by_time(found: Problem, groups: int = 128) -> dict[int, Options]:
    return {i: options_by_time(layer, groups) for i, layer in found.layers.items()}


def best(found: Problem) -> Solution:
    return solve_milp(found, by_time(found))


def test_a_fast_gpu_takes_the_most_frequent_neurons_of_all_layers() -> None:
    frequencies = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.05, 0.7], [0.01, 0.02, 0.03, 0.04]]
    found = problem(frequencies, 5, profile())
    assert best(found).hot == {0: 3, 1: 2, 2: 0}  # 0.9 0.8 0.7 0.5 0.3
    assert found.layers[0].order[:3].tolist() == [0, 2, 3]
    assert found.layers[1].order[:2].tolist() == [1, 3]


def test_processors_that_are_equally_fast_share_the_work() -> None:
    found = problem([[0.5] * 100], 99, profile(gpu=1e9, cpu=1e9))
    solution = best(found)
    assert solution.hot == {0: 50}
    assert solution.cost == pytest.approx(0.5 * 50 * NEURON / 1e9)


def test_a_budget_of_the_same_memory_buys_nothing() -> None:
    """One that is as fast takes no neuron, one that is faster takes all that fit: never a share for sharing's sake."""
    for gpu, hot in ((0.9e9, 0), (3e9, 99)):
        machine = profile(gpu=gpu, cpu=1e9)
        unified = replace(machine, link=replace(machine.link, unified=True))
        assert best(problem([[0.5] * 100], 99, unified)).hot == {0: hot}


def test_a_gpu_three_times_as_fast_takes_three_quarters() -> None:
    assert best(problem([[0.5] * 100], 99, profile(gpu=3e9, cpu=1e9))).hot == {0: 75}


def test_a_whole_layer_saves_its_handover() -> None:
    """Halves of two layers cover as much as one of them whole, but that one needs nothing of the CPU."""
    frequencies = [[0.4] * 10, [0.4] * 10]
    assert sorted(best(problem(frequencies, 10, profile(handover=1e-6))).hot.values()) == [0, 10]


def test_what_is_never_active_stays_where_it_is() -> None:
    found = problem([[0.0] * 10, [0.5] + [0.0] * 9], 15, profile(handover=0.0))
    assert best(found).hot == {0: 0, 1: 1}


def test_layers_cost_what_their_bytes_are() -> None:
    """The same frequencies in rows of twice the bytes: as much time a byte, so the better frequency decides."""
    model = ModelBytes((LayerBytes(0, 0, 0, 200, 4), LayerBytes(0, 0, 0, 100, 4)), 0, 0)
    activity = Activity((np.array([0.5, 0.5, 0.1, 0.1]), np.array([0.4, 0.4, 0.05, 0.05])))
    found = placed_problem(model, activity, [600], profile())
    assert best(found).hot == {0: 2, 1: 2}


def test_each_gpu_has_its_own_room() -> None:
    model = sizes([4, 4, 4, 4])
    activity = Activity((np.full(4, 0.1), np.full(4, 0.9), np.full(4, 0.2), np.full(4, 0.3)))
    found = placed_problem(model, activity, [300, 300], profile())
    assert found.devices == {0: 0, 1: 0, 2: 1, 3: 1}
    assert best(found).hot == {0: 0, 1: 3, 2: 0, 3: 3}


def prefixes(found: Problem) -> float:
    """The least time of all numbers of hot neurons that fit, by trying them."""
    ranges = [range(layer.n_ff + 1) for layer in found.layers.values()]
    choices = (dict(zip(found.layers, counts, strict=True)) for counts in itertools.product(*ranges))
    return min(
        found.time(hot)
        for hot in choices
        if all(used <= room for used, room in zip(found.used(hot), found.room, strict=True))
    )


@pytest.mark.parametrize("seed", range(8))
def test_against_trying_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frequencies = [rng.random(7) ** 3 for _ in range(3)]
    on = profile(gpu=1e9 * rng.integers(1, 6), cpu=1e9, handover=1e-8 * rng.integers(0, 10), fixed=1e-9)
    found = problem(frequencies, int(rng.integers(1, 20)), on)
    wanted = prefixes(found)
    solution = best(found)
    assert solution.cost == pytest.approx(wanted, rel=2e-4)
    assert solution.bound <= wanted * (1 + 1e-9)
    assert lower_bound(found) <= wanted * (1 + 1e-9)
    assert solve_greedy(found, by_time(found)).bound <= wanted * (1 + 1e-9)


def neuron_by_neuron(found: Problem) -> float:
    """Another formulation, by another library: a variable for each neuron, and one for each layer's time in ns."""
    layers = [
        replace(layer, gpu=layer.gpu * 1e9, cpu=layer.cpu * 1e9, handover=layer.handover * 1e9)
        for layer in found.layers.values()
    ]
    n = sum(layer.n_ff for layer in layers)
    columns = n + 2 * len(layers)  # neurons, then times, then "all are hot"
    cost, rows, lows, highs = np.zeros(columns), [], [], []

    def row(entries: dict[int, float], low: float, high: float) -> None:
        values = np.zeros(columns)
        values[list(entries)] = list(entries.values())
        rows.append(values)
        lows.append(low)
        highs.append(high)

    room: dict[int, float] = {}
    at = 0
    for index, layer in enumerate(layers):
        gpu, cpu = np.diff(layer.gpu), np.diff(layer.cpu)
        mine = range(at, at + layer.n_ff)
        time, whole = n + index, n + len(layers) + index
        cost[time], cost[whole] = 1.0, -layer.handover
        row({j: -cost for j, cost in zip(mine, gpu, strict=True)} | {time: 1.0}, 0.0, np.inf)
        cold = dict(zip(mine, cpu, strict=True)) | {time: 1.0}
        row(cold, layer.cpu[-1], np.inf)
        for j in mine:
            row({j: 1.0, whole: -1.0}, 0.0, np.inf)
            room[j] = layer.neuron
        at += layer.n_ff
    row(room, 0.0, found.room[0])
    whole_numbers = np.ones(columns)
    whole_numbers[n : n + len(layers)] = 0
    bounds = optimize.Bounds(0, np.where(whole_numbers == 1, 1.0, np.inf))
    constraint = optimize.LinearConstraint(sparse.csr_array(np.array(rows)), lows, highs)
    done = optimize.milp(
        cost, constraints=constraint, integrality=whole_numbers, bounds=bounds, options={"mip_rel_gap": 1e-4}
    )
    assert done.success
    return float(done.fun + sum(layer.handover for layer in layers)) * 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_against_another_solver_and_formulation(seed: int) -> None:
    """Any set of neurons may be hot there, not only the most frequent: that gains next to nothing."""
    rng = np.random.default_rng(seed)
    frequencies = [power_law(rng, 16, 0.3, 0.3 + 0.5 * rng.random()) for _ in range(3)]
    on = profile(gpu=float(rng.choice([1e10, 1e12])), cpu=1e9, handover=float(rng.choice([0.0, 1e-7])))
    found = problem(frequencies, int(rng.integers(5, 44)), on)
    wanted = neuron_by_neuron(found)
    mine = found.time(fill_up(found, best(found).hot))
    assert mine >= wanted * (1 - 2e-4)
    assert mine <= wanted * 1.01
    assert lower_bound(found) <= mine * (1 + 1e-12)


def realistic(n_layer: int, n_ff: int, share: float, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    frequencies = [power_law(rng, n_ff, 0.1, 0.3 + 0.6 * rng.random()) for _ in range(n_layer)]
    on = profile(gpu=5e11, cpu=3e10, handover=2e-5, fixed=1e-5)
    return problem(frequencies, round(share * n_layer * n_ff), on, neuron=3 * 2304)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.6, 0.95])
def test_proven_to_be_within_one_percent(share: float) -> None:
    found = realistic(32, 11008, share)
    solution = best(found)
    filled = fill_up(found, solution.hot)
    bound = lower_bound(found)
    assert bound <= found.time(filled) <= bound * 1.01
    assert found.time(filled) <= solution.cost <= solution.bound * 1.01
    assert all(used <= room for used, room in zip(found.used(filled), found.room, strict=True))
    greedy = solve_greedy(found, by_time(found))
    assert solution.cost <= greedy.cost <= solution.cost * 1.02
    assert greedy.bound == pytest.approx(solution.bound, rel=1e-2)
    assert best(found).hot == solution.hot  # always the same answer


def test_no_time_is_still_an_answer() -> None:
    found = realistic(8, 512, 0.3)
    solution = solve_milp(found, by_time(found), time_limit=0.0)
    assert found.used(solution.hot)[0] <= found.room[0]
    assert solution.cost <= solve_greedy(found, by_time(found)).cost
    assert solution.bound <= solution.cost


def test_no_room_and_no_layers() -> None:
    found = realistic(3, 64, 0.0)
    assert best(found).hot == {0: 0, 1: 0, 2: 0}
    empty = Problem({}, {}, (100,))
    assert solve_milp(empty, {}).hot == {}
    assert lower_bound(empty) == 0.0


def test_the_originals_objective() -> None:
    """As many activations as possible; and a layer with fewer hot neurons than the least has none."""
    frequencies = [[0.9, 0.8, 0.1, 0.1], [0.7, 0.6, 0.6, 0.5]]
    found = problem(frequencies, 4, profile(gpu=1e9, cpu=1e9))

    def hot(least: int) -> dict[int, int]:
        options = {i: options_by_frequency(layer, least) for i, layer in found.layers.items()}
        return solve_milp(found, options).hot

    assert hot(0) == {0: 2, 1: 2}  # 0.9 0.8 0.7 0.6
    assert hot(3) == {0: 0, 1: 4}  # 2.4, where the other layer's are 1.9
    assert hot(5) == {0: 0, 1: 0}


def test_options_are_only_those_worth_their_bytes() -> None:
    found = problem([[0.5] * 100], 100, profile(gpu=1e9, cpu=1e9, handover=1.0))
    options = options_by_time(found.layers[0])
    assert options.counts.tolist() == [*range(51), 100]
    assert (np.diff(options.cost) < 0).all()


@dataclass(frozen=True)
class Fired:
    """What a profile says of neurons that fire together."""

    tokens: int
    bounds: np.ndarray
    covariance: np.ndarray


def test_the_mean_of_the_larger_is_more_than_the_larger_mean() -> None:
    """Of numbers that vary, and not alone: as drawn."""
    rng = np.random.default_rng(0)
    bounds = np.array([0, 100, 200, 400])
    mixed = rng.normal(size=(3, 3)) * 6
    together = Fired(1, bounds, (mixed @ mixed.T)[None])
    layer = LayerBytes(0, 0, 0, NEURON, 400)
    costs = LayerCosts.of(layer, Activity((np.full(400, 0.2),), together=together), 0, profile(2e9, 1e9), 0, "any", 0)
    drawn = rng.multivariate_normal(np.diff(bounds) * 0.2, together.covariance[0], 400_000)
    for groups, hot in enumerate(bounds):
        gpu, cpu = drawn[:, :groups].sum(1) * NEURON / 2e9, drawn[:, groups:].sum(1) * NEURON / 1e9
        wanted = gpu.mean() if groups == 3 else np.maximum(gpu, cpu).mean()
        assert costs.time(np.array([hot]))[0] == pytest.approx(wanted, rel=3e-3)
    sure = LayerCosts.of(layer, Activity((np.full(400, 0.2),)), 0, profile(2e9, 1e9), 0, "any", 0)
    assert costs.time(np.array([267]))[0] > 1.02 * sure.time(np.array([267]))[0]


def test_neurons_of_which_nothing_is_known() -> None:
    """Others than the most frequent: their own mass, and no deviation."""
    frequencies = np.array([0.1, 0.5, 0.3, 0.7])
    together = Fired(1, np.array([0, 2, 4]), np.eye(2)[None])
    layer, activity = LayerBytes(0, 0, 0, NEURON, 4), Activity((frequencies,), together=together)
    costs = LayerCosts.of(layer, activity, 0, profile(), 0, "any", 0)
    assert costs.with_hot(np.array([1, 3], np.int32)) is costs
    other = costs.with_hot(np.array([0, 1], np.int32))
    assert other.mass.tolist() == pytest.approx([0, 0.1, 0.6, 0.9, 1.6])
    assert not other.deviation.any()


@pytest.mark.parametrize(
    ("bounds", "shape"),
    [([0, 2, 5], (1, 2, 2)), ([0, 2, 4], (1, 3, 3)), ([0, 4, 2], (1, 2, 2)), ([0, 2, 4], (0, 2, 2))],
)
def test_the_profile_of_another_model(bounds: list[int], shape: tuple[int, ...]) -> None:
    activity = Activity((np.full(4, 0.5),), together=Fired(1, np.array(bounds), np.zeros(shape)))
    with pytest.raises(PowerInferError, match="another model"):
        LayerCosts.of(LayerBytes(0, 0, 0, NEURON, 4), activity, 0, profile(), 0, "any", 0)
