"""From statistics and budgets to a plan."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import UsageError
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    ActivationStatistics,
    LayerBytes,
    ModelBytes,
    Plan,
    RowReading,
    device_use,
    main_memory_plan,
)
from solver.placing.costs import activity_from
from solver.placing.device_profile import DeviceProfile, Rates, load_profile
from solver.placing.planning import PlanResult, PlanSettings, make_plan
from solver.placing.simulation import Work, simulate
from tests.helpers.placing.placement_problems import power_law

N_FF, N_LAYER = 512, 6
LAYER = LayerBytes(attention=40_000, predictor=8_000, kv=2_000, neuron=600, neurons=N_FF)
SIZES = ModelBytes((LAYER,) * N_LAYER, head=60_000, scratch=5_000)
TOKENS = 20_000
PROFILE = load_profile("rtx-3060-12gb-ddr4")
SETTINGS = PlanSettings(kind="Q4_0", n_embd=256, fingerprint="f")
# Of the small model here, bytes would matter next to nothing beside what any layer costs.
LARGE = replace(
    SIZES, layers=tuple(replace(layer, neuron=600_000, attention=40_000_000) for layer in SIZES.layers), head=60_000_000
)
FIXED = sum(layer.fixed for layer in LARGE.layers) + LARGE.head + LARGE.scratch


@pytest.fixture(scope="module")
def statistics() -> ActivationStatistics:
    rng = np.random.default_rng(1)
    exponents = np.linspace(0.3, 0.8, N_LAYER)
    return ActivationStatistics(tuple(np.round(power_law(rng, N_FF, 0.1, e) * TOKENS) for e in exponents))


def plan(
    statistics: ActivationStatistics | None, *budgets: int, sizes: ModelBytes = LARGE, **changes: Any
) -> PlanResult:
    return make_plan(sizes, statistics, budgets, PROFILE, replace(SETTINGS, **changes))


def within(found: Plan, sizes: ModelBytes = LARGE) -> bool:
    return all(device_use(sizes, found, gpu).total <= budget for gpu, budget in enumerate(found.budgets))


def test_a_quarter_of_the_neurons(statistics: ActivationStatistics) -> None:
    budget = FIXED + N_LAYER * N_FF * 600_000 // 4
    found = plan(statistics, budget)
    assert within(found.plan)
    assert device_use(LARGE, found.plan, 0).total > budget - 600_000  # not a neuron less than fits
    assert found.plan.solver == "milp"
    assert found.plan.fingerprint == "f"
    assert found.plan.output == 0
    assert 0 <= found.gap < 0.01
    assert found.relaxation <= found.bound <= found.prediction.seconds <= found.relaxation * 1.01
    assert set(found.others) == {"greedy", "frequency", "layers"}
    assert found.prediction.seconds <= min(other.seconds for other in found.others.values()) * 1.0001
    assert found.others["layers"].seconds > 1.3 * found.prediction.seconds
    for layer, counts in zip(found.plan.layers, statistics.counts, strict=True):
        cold = np.delete(counts, layer.hot)
        assert counts[layer.hot].min(initial=np.inf) >= cold.max(initial=0)


@pytest.mark.parametrize("solver", ["milp", "greedy", "frequency", "layers"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_no_budget_is_exceeded(statistics: ActivationStatistics, solver: str, share: float) -> None:
    found = plan(statistics, round(FIXED + share * N_LAYER * N_FF * 600_000), solver=solver)
    assert found.plan.solver == solver
    assert within(found.plan)


def test_more_budget_is_never_slower(statistics: ActivationStatistics) -> None:
    budgets = [round(FIXED + share * N_LAYER * N_FF * 600_000) for share in (0, 0.05, 0.2, 0.4, 0.8, 1.0)]
    seconds = [plan(statistics, budget).prediction.seconds for budget in budgets]
    assert all(later <= earlier * 1.0001 for earlier, later in pairwise(seconds))


def test_everything_on_the_gpu(statistics: ActivationStatistics) -> None:
    found = plan(statistics, LARGE.total)
    assert found.plan.hot_counts == (N_FF,) * N_LAYER
    assert found.plan.output == 0
    assert found.gap == 0
    assert all(layer.cpu == 0 for layer in found.prediction.layers)
    assert found.remarks == ()
    less = plan(statistics, LARGE.total - 1)
    assert sum(less.plan.hot_counts) < N_LAYER * N_FF


@pytest.mark.parametrize("budgets", [(), (0,), (0, 0), (4_000,)])
def test_no_budget(statistics: ActivationStatistics, budgets: tuple[int, ...]) -> None:
    found = plan(statistics, *budgets)
    assert found.plan.gpus == ()
    assert found.plan.output == MAIN_MEMORY
    assert found.gap == 0
    assert found.others == {}
    assert bool(found.remarks) == any(budgets)


def test_too_little_for_the_dense_blocks(statistics: ActivationStatistics) -> None:
    found = plan(statistics, 3 * LARGE.layers[0].fixed + LARGE.scratch + 10 * 600_000)
    assert [layer.device for layer in found.plan.layers] == [MAIN_MEMORY] * 3 + [0] * 3
    assert found.plan.output == MAIN_MEMORY
    assert within(found.plan)
    assert len(found.remarks) == 2
    assert sum(found.plan.hot_counts) == 10


def test_two_gpus(statistics: ActivationStatistics) -> None:
    half = FIXED // 2 + N_LAYER * N_FF * 600_000 // 8 + 40_000_000
    found = plan(statistics, half, half)
    assert [layer.device for layer in found.plan.layers] == [0, 0, 0, 1, 1, 1]
    assert found.plan.output == 1
    assert within(found.plan)
    assert found.bound <= found.prediction.seconds <= found.bound * 1.01
    assert 0 < found.gap < 0.03  # with the handover between the GPUs, that one need not use both
    divided = plan(statistics, 2 * half, 2 * half, shares=(1, 2))
    assert [layer.device for layer in divided.plan.layers] == [0, 0, 1, 1, 1, 1]


def test_one_gpu_holds_all_of_its_layers_and_the_other_does_not(statistics: ActivationStatistics) -> None:
    found = plan(statistics, 2_000_000_000, 400_000_000, shares=(1, 1))
    assert found.plan.hot_counts[:3] == (N_FF,) * 3
    assert 0 < sum(found.plan.hot_counts[3:]) < 3 * N_FF
    assert found.bound <= found.prediction.seconds <= found.bound * 1.01
    assert found.gap < 0.1


def test_a_cap_on_layers(statistics: ActivationStatistics) -> None:
    found = plan(statistics, LARGE.total, max_layers=2)
    assert [layer.device for layer in found.plan.layers] == [MAIN_MEMORY] * 4 + [0, 0]
    assert found.plan.hot_counts == (0, 0, 0, 0, N_FF, N_FF)
    assert found.plan.output == MAIN_MEMORY
    assert plan(statistics, LARGE.total, max_layers=0).plan.gpus == ()


def test_without_statistics_whole_layers() -> None:
    budget = FIXED + 3 * N_FF * 600_000
    found = plan(None, budget)
    assert found.plan.solver == "layers"
    assert found.plan.hot_counts == (0, 0, 0, N_FF, N_FF, N_FF)
    assert within(found.plan)
    assert found.others == {}
    assert 0 < found.gap < 0.2  # a fourth layer does not fit by a hair
    assert "layers 0 to 2 stay" in found.remarks[-1]


def test_no_budget_needs_no_gpu(statistics: ActivationStatistics) -> None:
    assert make_plan(LARGE, statistics, [0], replace(PROFILE, gpus=()), SETTINGS).plan.gpus == ()


def test_what_fires_together(statistics: ActivationStatistics) -> None:
    """All neurons of a layer at once, or none: the CPU waits for the GPU or the GPU for the CPU, but both at once."""

    @dataclass(frozen=True)
    class Together:
        tokens = TOKENS
        bounds = np.array([0, N_FF // 8, N_FF])
        covariance = np.tile(np.array([[60.0, 60.0], [60.0, 60.0]]) ** 2, (N_LAYER, 1, 1))

    budget = FIXED + N_LAYER * N_FF * 600_000 // 4
    found = plan(statistics, budget, together=Together())
    assert within(found.plan)
    assert found.gap < 0.01
    assert found.prediction.seconds > plan(statistics, budget).prediction.seconds * 1.01


def test_the_same_plan_every_time(statistics: ActivationStatistics) -> None:
    budget = FIXED + N_LAYER * N_FF * 200_000
    one, two = (plan(statistics, budget).plan for _ in range(2))
    for a, b in zip(one.layers, two.layers, strict=True):
        assert a.hot.tolist() == b.hot.tolist()


def test_impossible_settings(statistics: ActivationStatistics) -> None:
    with pytest.raises(UsageError, match="no solver 'dice'"):
        PlanSettings(kind="Q4_0", n_embd=1, solver="dice")
    with pytest.raises(UsageError, match="negative"):
        plan(statistics, -1)
    with pytest.raises(UsageError, match="has no GPU"):
        make_plan(LARGE, statistics, [10], replace(PROFILE, gpus=()), SETTINGS)
    with pytest.raises(UsageError, match="tensor-split"):
        plan(statistics, 10, shares=(1, 2))


def device_profile(*, gpu: float = 1.0, synchronisation: float = 2e-5) -> DeviceProfile:
    """A GPU of so many times its speed."""
    card = PROFILE.gpus[0]
    rates = {kind: Rates(gpu * r.dense, gpu * r.scattered) for kind, r in card.rates.items()}
    card = replace(card, rates=rates, cache=gpu * card.cache, layer=card.layer / gpu, ffn=card.ffn / gpu)
    return replace(PROFILE, gpus=(card,), link=replace(PROFILE.link, synchronisation=synchronisation))


def seconds_of(plan: Plan, statistics: ActivationStatistics, profile: DeviceProfile) -> float:
    work = Work(LARGE, activity_from(statistics), SETTINGS.kind, SETTINGS.n_embd)
    return simulate(plan, work, profile).seconds


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("gpu", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("synchronisation", [0.0, 5e-4, 0.1])
def test_never_slower_than_a_plan_that_it_could_make(
    statistics: ActivationStatistics, share: float, gpu: float, synchronisation: float
) -> None:
    """Handing over may cost more than it saves, and a GPU may be slower than the CPU."""
    on = device_profile(gpu=gpu, synchronisation=synchronisation)
    budgets = [FIXED + round(share * N_LAYER * N_FF * 600_000)]
    found = make_plan(LARGE, statistics, budgets, on, SETTINGS)
    named = [
        make_plan(LARGE, statistics, budgets, on, replace(SETTINGS, solver=name))
        for name in ("greedy", "layers", "frequency")
    ]
    assert within(found.plan)
    seconds = found.prediction.seconds
    assert seconds == pytest.approx(seconds_of(found.plan, statistics, on))
    assert seconds <= seconds_of(main_memory_plan(N_LAYER), statistics, on) * 1.00001
    assert seconds <= min(one.prediction.seconds for one in named) * 1.00001
    for one in (found, *named):
        assert one.relaxation <= one.bound <= one.prediction.seconds * (1 + 1e-9)
        assert one.relaxation <= seconds * (1 + 1e-9), "a bound that another plan goes below"


def test_fewer_layers_where_handing_over_costs_much(statistics: ActivationStatistics) -> None:
    """More of each of them is hot, and the room of the others' attention is theirs, too."""
    on = device_profile(synchronisation=1e-3)
    budgets = [FIXED + N_LAYER * N_FF * 300_000]
    found = make_plan(LARGE, statistics, budgets, on, SETTINGS)
    assert [layer.hot.size for layer in found.plan.layers] == [0, 0, N_FF, N_FF, N_FF, 133]
    assert found.plan.gpus == (0,)
    assert found.prediction.seconds < 0.95 * min(found.others[name].seconds for name in ("greedy", "layers"))
    assert found.remarks[-1].startswith("layers 0 to 1 stay in main memory though there is room")
    assert found.gap < 0.1
    asked = make_plan(LARGE, statistics, budgets, on, replace(SETTINGS, solver="greedy"))
    assert asked.plan.solver == "greedy", "what was asked for by name"


def test_the_greedy_plan_where_its_last_neurons_fit_better(statistics: ActivationStatistics) -> None:
    """HiGHS has the better groups, but what is left beside them is filled up neuron by neuron."""
    budgets = [FIXED + N_LAYER * N_FF * 369_000]
    found = make_plan(LARGE, statistics, budgets, device_profile(synchronisation=5e-4), SETTINGS)
    assert found.plan.solver == "greedy"
    assert found.prediction.seconds < found.others["milp"].seconds
    assert set(found.others) == {"milp", "frequency", "layers"}


def test_main_memory_where_it_is_faster(statistics: ActivationStatistics) -> None:
    on = device_profile(gpu=1e-3, synchronisation=0.1)
    found = make_plan(LARGE, statistics, [LARGE.total], on, SETTINGS)
    assert found.plan.gpus == ()
    assert found.gap == 0
    assert found.plan.budgets == (LARGE.total,)
    assert "no GPU is expected to make decoding faster" in found.remarks[0]
    assert set(found.others) == {"milp", "greedy", "frequency", "layers"}
    dense = make_plan(LARGE, None, [LARGE.total], on, SETTINGS)
    assert dense.plan.gpus == ()
    named = make_plan(LARGE, None, [LARGE.total], on, replace(SETTINGS, solver="layers"))
    assert named.plan.hot_counts == (N_FF,) * N_LAYER


def test_a_gpu_that_is_slower_may_still_take_a_part(statistics: ActivationStatistics) -> None:
    """Everything fits, but both together are faster than either."""
    on = device_profile(gpu=0.1, synchronisation=0.0)
    found = make_plan(LARGE, statistics, [LARGE.total], on, SETTINGS)
    whole = make_plan(LARGE, statistics, [LARGE.total], on, replace(SETTINGS, solver="layers"))
    assert found.prediction.seconds < 0.8 * whole.prediction.seconds
    assert found.gap < 0.2


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_layers_that_cannot_be_divided_are_whole_or_not_there(statistics: ActivationStatistics, share: float) -> None:
    """Two of six: their neurons' down rows are no rows."""
    layers = list(LARGE.layers)
    for index in (2, 5):
        layers[index] = replace(LARGE.layers[index], first=600_000, reading=RowReading.ALL, divisible=False)
    sizes = replace(LARGE, layers=tuple(layers))
    found = plan(statistics, round(FIXED + share * N_LAYER * N_FF * 600_000), sizes=sizes)
    assert within(found.plan, sizes)
    assert found.plan.solver == "milp"
    for index in (2, 5):
        assert found.plan.layers[index].hot.size in (0, N_FF)
        assert (found.plan.layers[index].device == MAIN_MEMORY) == (found.plan.layers[index].hot.size == 0)
    assert any(0 < count < N_FF for count in found.plan.hot_counts)
    assert found.relaxation <= found.prediction.seconds
