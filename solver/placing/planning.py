"""From sizes, statistics and budgets to a placement plan, and what it leads one to expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from powerinfer_cli.errors import UsageError
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    ActivationStatistics,
    LayerPlacement,
    ModelBytes,
    Plan,
    Reservation,
    RowReading,
    all_neurons,
    main_memory_plan,
    no_neurons,
    reserve,
)
from powerinfer_cli.placement.plan import SOLVERS
from solver.placing.between import better_start
from solver.placing.bounds import least_seconds
from solver.placing.costs import CostOf, Counts, Together, activity_from, always_active
from solver.placing.cpu_moe import least_cpu_moe
from solver.placing.device_profile import DeviceProfile
from solver.placing.greedy import fill_up, solve_greedy
from solver.placing.milp import solve_milp
from solver.placing.problem import Problem, Solution, build_problem, lower_bound, options_by_frequency, options_by_time
from solver.placing.simulation import Prediction, Work, layer_costs, simulate

__all__ = ["PlanResult", "PlanSettings", "make_plan"]

ALIKE = 1e-6  # a share of the time that is no reason for another plan
ALL_ALIKE = "nobody counted which experts are chosen: planned as if all of them were equally often"
SLOW = "everything stays in main memory: no GPU is expected to make decoding faster"


@dataclass(frozen=True)
class PlanSettings:
    """What a plan is made from besides sizes, statistics and budgets.

    kind: ggml's name of the FFN's weight type; head_kind: of the head's, None for the same. n_embd: width of the
    residual stream. fingerprint: of the model.
    margin: bytes of each GPU that stay free. max_layers: as `-ngl`, None for no cap. shares: as `--tensor-split`.
    solver: "milp" (the fastest plan that is found, by HiGHS or without it), or just that of "greedy", "frequency" (most
    activations on the GPU, the original PowerInfer's objective) or "layers" (whole layers). least_hot: for "frequency",
    how many neurons of a layer are hot if any are. together: what a profile knows besides its counts. depth: the share
    of the context that a token attends to. time_limit: seconds for HiGHS. let_through: as `Activity` has it.
    """

    kind: str
    n_embd: int
    fingerprint: str = ""
    margin: int = 0
    max_layers: int | None = None
    shares: Sequence[float] | None = None
    solver: str = "milp"
    least_hot: int = 0
    together: Together | None = None
    depth: float = 0.0
    time_limit: float = 10.0
    let_through: tuple[float, ...] | None = None
    head_kind: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError: there is no such solver."""
        if self.solver not in SOLVERS:
            raise UsageError(f"there is no solver {self.solver[:40]!r} (there are {', '.join(SOLVERS)})")


@dataclass(frozen=True)
class PlanResult:
    """plan, and what it leads one to expect.

    bound: seconds for a token that no plan with the same layers on the same GPUs goes below; by HiGHS, of plans of
    whole groups of neurons, where it was asked. relaxation: that no plan at all goes below within the budgets (for a
    dense model, of whole layers), by linear relaxation. Of both, layers of a GPU with room for all their neurons are
    no choice: they are whole there, and the CPU idle, unless main memory alone is faster. others: what other solvers'
    plans lead one to expect, by their names, at the same budgets; of experts, also the best `--n-cpu-moe`. seconds:
    that the search took. remarks: what stayed in main memory, and why.
    """

    plan: Plan
    prediction: Prediction
    bound: float
    relaxation: float
    others: Mapping[str, Prediction]
    seconds: float
    remarks: tuple[str, ...]

    @property
    def gap(self) -> float:
        """How far the plan may be from the best of all within the budgets, as a share of its time."""
        return max(0.0, 1.0 - self.relaxation / self.prediction.seconds)


def make_plan(
    sizes: ModelBytes,
    statistics: ActivationStatistics | None,
    budgets: Sequence[int],
    profile: DeviceProfile,
    settings: PlanSettings,
) -> PlanResult:
    """Place a model. statistics: None for a dense model, or where nobody made any; then whole layers are placed, or
    experts as if all were chosen equally often.

    Asked for "milp", the plan is the fastest, by what is predicted, of those by HiGHS and by the greedy twin, with as
    many layers on GPUs as fit and with fewer, of whole layers, and of everything in main memory; `Plan.solver` tells
    which it is ("layers" where all is in main memory).

    Raises:
        UsageError: a negative budget, shares that cannot be, a budget for a machine without a GPU.
    """
    if any(budgets) and not profile.gpus:
        raise UsageError(f"a budget of GPU memory, but the device profile of {profile.cpu.name[:60]} has no GPU")
    activity = (
        always_active(sizes.layers)
        if statistics is None
        else activity_from(statistics, settings.together, settings.let_through)
    )
    work = Work(sizes, activity, settings.kind, settings.n_embd, settings.depth, settings.head_kind)
    maker = _Maker(work, tuple(budgets), profile, settings, layer_costs(work, profile))
    routed = any(layer.reading is RowReading.CHOSEN for layer in sizes.layers)
    divided = statistics is not None or routed
    solver = settings.solver if divided else "layers"
    tries = maker.tries(solver)
    first = tries[0]
    made = min(tries, key=lambda one: one.prediction.seconds * (1.0 if one is first else 1.0 + ALIKE))
    named = made.plan.solver if made.plan.gpus else None
    others = {one.plan.solver: one.prediction for one in reversed(tries) if one.plan.gpus and one.plan.solver != named}
    if divided and first.plan.gpus:
        missing = [name for name in SOLVERS if name not in ("milp", named, *others)]
        others |= {name: maker.make(name).prediction for name in missing}
    others = {name: others[name] for name in SOLVERS if name in others}
    remarks = made.remarks
    if routed and any(budgets):
        n, plan = least_cpu_moe(sizes, maker.budgets, maker.reserve_whole)
        others[f"--n-cpu-moe {n}"] = simulate(plan, work, profile, maker.cost_of)
        alike = statistics is None and made.plan.gpus and solver != "layers"
        remarks = (*remarks, ALL_ALIKE) if alike else remarks
    relaxation = min(maker.least(first), made.prediction.seconds)
    bound = relaxation if made.bound is None else max(relaxation, made.bound)
    seconds = sum(one.seconds for one in tries)
    return PlanResult(made.plan, made.prediction, bound, relaxation, others, seconds, remarks)


@dataclass(frozen=True)
class _Made:
    """A plan. bound: seconds for a token, with the same layers on the same GPUs; None where nothing was proven.

    settled: GPUs that hold all neurons of their layers without a choice. seconds: that the search took.
    """

    plan: Plan
    prediction: Prediction
    remarks: tuple[str, ...]
    bound: float | None = None
    settled: frozenset[int] = frozenset()
    seconds: float = 0.0


@dataclass(frozen=True)
class _Maker:
    work: Work
    budgets: tuple[int, ...]
    profile: DeviceProfile
    settings: PlanSettings
    cost_of: CostOf

    def tries(self, solver: str) -> list[_Made]:
        """The plan by one of SOLVERS; where the fastest is asked for, also the others that may be it."""
        found = [self.make(solver)]
        if self.settings.solver != "milp" or not found[0].plan.gpus:
            return found
        main = self._main_memory((SLOW,))
        if solver == "milp":
            if found[0].settled and _slower(found[0], main):
                found.append(self.make(solver, settle=False))
            found += [self.make("greedy"), self.make("layers"), *self._between(found[0])]
        return [*found, main]

    def _between(self, first: _Made) -> list[_Made]:
        """The best plan with fewer layers on GPUs than fit, if it is better."""
        devices = [layer.device for layer in first.plan.layers]
        start = next((i for i, device in enumerate(devices) if device != MAIN_MEMORY), len(devices))
        if start == len(devices) or first.settled == set(first.plan.gpus):
            return []
        better = better_start(self.work, self.profile, self.cost_of, partial(self._reserve, False), start)
        if better is None:
            return []
        made = self.make("milp", start=better)
        now, then = (f"{one.prediction.tokens_per_second:,.1f}" for one in (made, first))
        names = f"layer {start} stays" if better - start == 1 else f"layers {start} to {better - 1} stay"
        why = f"{names} in main memory though there is room, so that more of the others is hot: {now} instead of {then}"
        return [replace(made, remarks=(*first.remarks, f"{why} tokens/s are predicted"))]

    def make(self, solver: str, *, settle: bool = True, start: int = 0) -> _Made:
        """By one of SOLVERS. settle: GPUs with room for all neurons of their layers have them all. start: layers before
        it stay in main memory.
        """
        whole = solver == "layers"
        found = self._reserve(whole, start)
        if set(found.devices) == {MAIN_MEMORY} and found.output == MAIN_MEMORY:
            return self._main_memory(found.remarks)
        if whole:
            return self._made(self._plan(found, {}, solver), found)
        everything = build_problem(self.work.sizes, found, self.cost_of)
        problem = _tight(everything) if settle else everything
        settled = frozenset(everything.devices.values()) - frozenset(problem.devices.values())
        if not problem.layers:
            return replace(self._made(self._plan(found, {}, solver), found), settled=settled)
        solution, counts = self._solve(problem, solver)
        chosen = {i: problem.layers[i].order[:count] for i, count in counts.items()}
        made = self._made(self._plan(found, chosen, solver), found)
        time, bound = problem.time(counts), lower_bound(problem)
        if solver == "milp":
            bound = max(bound, min(solution.bound, time))
        rest = made.prediction.seconds - time
        return replace(made, bound=rest + bound, settled=settled, seconds=solution.seconds)

    def least(self, first: _Made) -> float:
        """Seconds for a token that no plan within the budgets goes below. first: the plan with settled GPUs."""
        s = self.settings
        settled = frozenset() if _slower(first, self._main_memory(())) else first.settled
        weights = self.budgets if s.shares is None else s.shares
        free = {gpu: budget - self.work.sizes.on_each - s.margin for gpu, budget in enumerate(self.budgets)}
        rooms = {gpu: room for gpu, room in free.items() if room > 0 and weights[gpu] and gpu not in settled}
        places = {i: layer.device for i, layer in enumerate(first.plan.layers) if layer.device in settled}
        cap = len(first.plan.layers) if s.max_layers is None else s.max_layers
        start = max(0, len(first.plan.layers) - cap)
        whole = self.work.activity.dense
        return least_seconds(self.work, self.profile, self.cost_of, rooms, places, first=start, whole=whole)

    def _made(self, plan: Plan, found: Reservation) -> _Made:
        return _Made(plan, simulate(plan, self.work, self.profile, self.cost_of), found.remarks)

    def _main_memory(self, remarks: tuple[str, ...]) -> _Made:
        plan = main_memory_plan(len(self.work.sizes.layers), self.settings.fingerprint, self.budgets)
        return _Made(plan, simulate(plan, self.work, self.profile, self.cost_of), remarks)

    def reserve_whole(self, sizes: ModelBytes) -> Reservation:
        """A model of such sizes by whole layers."""
        s = self.settings
        return reserve(sizes, self.budgets, margin=s.margin, max_layers=s.max_layers, shares=s.shares, whole=True)

    def _reserve(self, whole: bool, start: int) -> Reservation:
        if whole:
            return self.reserve_whole(self.work.sizes)
        s, sizes = self.settings, self.work.sizes
        return reserve(sizes, self.budgets, margin=s.margin, max_layers=s.max_layers, shares=s.shares, start=start)

    def _solve(self, problem: Problem, solver: str) -> tuple[Solution, dict[int, int]]:
        if solver == "frequency":
            options = {i: options_by_frequency(x, self.settings.least_hot) for i, x in problem.layers.items()}
            solution = solve_milp(problem, options, time_limit=self.settings.time_limit)
            return solution, solution.hot
        options = {i: options_by_time(layer) for i, layer in problem.layers.items()}
        if solver == "greedy":
            solution = solve_greedy(problem, options)
        else:
            solution = solve_milp(problem, options, time_limit=self.settings.time_limit)
        return solution, fill_up(problem, solution.hot)

    def _plan(self, found: Reservation, chosen: Mapping[int, Counts], solver: str) -> Plan:
        """chosen: hot neurons by layer; of a layer on a GPU that is not there all are hot."""
        layers = []
        for index, device in enumerate(found.devices):
            if device == MAIN_MEMORY:
                hot = no_neurons()
            elif index in chosen:
                hot = np.sort(chosen[index]).astype(np.int32)
            else:
                hot = all_neurons(self.work.sizes.layers[index].neurons)
            pages = None if device == MAIN_MEMORY else self.work.sizes.layers[index].pages
            layers.append(LayerPlacement(device, hot, pages))
        return Plan(self.budgets, tuple(layers), found.output, solver, self.settings.fingerprint)


def _slower(one: _Made, other: _Made) -> bool:
    return one.prediction.seconds > other.prediction.seconds


def _tight(problem: Problem) -> Problem:
    """The problem without the GPUs that hold all neurons of their layers: there the CPU stays idle."""
    everything = problem.used({i: layer.n_ff for i, layer in problem.layers.items()})
    tight = {gpu for gpu, room in enumerate(problem.room) if everything[gpu] > room}
    devices = {i: gpu for i, gpu in problem.devices.items() if gpu in tight}
    return replace(problem, layers={i: problem.layers[i] for i in devices}, devices=devices)
