"""From sizes, statistics and budgets to a placement plan, and what it leads one to expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerinfer_cli.errors import UsageError
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    ActivationStatistics,
    LayerPlacement,
    ModelBytes,
    Plan,
    Reservation,
    all_neurons,
    main_memory_plan,
    no_neurons,
    reserve,
)
from powerinfer_cli.placement.plan import SOLVERS
from solver.costs import Counts, Together, activity_from, always_active
from solver.device_profile import DeviceProfile
from solver.greedy import fill_up, solve_greedy
from solver.milp import solve_milp
from solver.problem import Problem, Solution, build_problem, lower_bound, options_by_frequency, options_by_time
from solver.simulate import Prediction, Work, simulate

__all__ = ["PlanResult", "PlanSettings", "make_plan"]


@dataclass(frozen=True)
class PlanSettings:
    """What a plan is made from besides sizes, statistics and budgets.

    kind: ggml's name of the FFN's weight type. n_embd: width of the residual stream. fingerprint: of the model.
    margin: bytes of each GPU that stay free. max_layers: as `-ngl`, None for no cap. shares: as `--tensor-split`.
    solver: "milp", "greedy", "frequency" (most activations on the GPU, the original PowerInfer's objective) or "layers"
    (whole layers). least_hot: for "frequency", how many neurons of a layer are hot if any are. together: what a
    profile knows besides its counts. depth: the share of the context that a token attends to. time_limit: seconds for
    HiGHS.
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

    def __post_init__(self) -> None:
        """Raises UsageError: there is no such solver."""
        if self.solver not in SOLVERS:
            raise UsageError(f"there is no solver {self.solver[:40]!r} (there are {', '.join(SOLVERS)})")


@dataclass(frozen=True)
class PlanResult:
    """plan, and what it leads one to expect.

    bound: seconds for a token that no plan with these layers on these GPUs goes below; by HiGHS, of plans of whole
    groups of neurons, where it was asked. relaxation: the same by linear relaxation, of any numbers of neurons. others:
    what other solvers' plans lead one to expect, by their names, at the same budgets. seconds: that the search took.
    remarks: what stayed in main memory, and why.
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
        """How far the plan may be from the best, as a share of its time."""
        return max(0.0, 1.0 - self.bound / self.prediction.seconds)


def make_plan(
    sizes: ModelBytes,
    statistics: ActivationStatistics | None,
    budgets: Sequence[int],
    profile: DeviceProfile,
    settings: PlanSettings,
) -> PlanResult:
    """Place a model. statistics: None for a dense model, or where nobody made any; then whole layers are placed.

    Raises:
        UsageError: a negative budget, shares that cannot be, a budget for a machine without a GPU.
    """
    if any(budgets) and not profile.gpus:
        raise UsageError(f"a budget of GPU memory, but the device profile of {profile.cpu.name[:60]} has no GPU")
    activity = always_active(sizes.layers) if statistics is None else activity_from(statistics, settings.together)
    work = Work(sizes, activity, settings.kind, settings.n_embd, settings.depth)
    maker = _Maker(work, tuple(budgets), profile, settings)
    solver = "layers" if statistics is None else settings.solver
    made, prediction = maker.make(solver)
    others = {}
    if statistics is not None and made.plan.gpus:
        others = {name: maker.make(name)[1] for name in SOLVERS if name not in (solver, "milp")}
    rest = prediction.seconds - made.time
    return PlanResult(
        made.plan, prediction, rest + made.bound, rest + made.relaxation, others, made.seconds, made.remarks
    )


@dataclass(frozen=True)
class _Made:
    """A plan. time: of the FFNs for which there was a choice; bound, relaxation: the least that they can take."""

    plan: Plan
    remarks: tuple[str, ...]
    time: float = 0.0
    bound: float = 0.0
    relaxation: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Maker:
    work: Work
    budgets: tuple[int, ...]
    profile: DeviceProfile
    settings: PlanSettings

    def make(self, solver: str) -> tuple[_Made, Prediction]:
        """By one of SOLVERS."""
        made = self._made(solver)
        return made, simulate(made.plan, self.work, self.profile)

    def _made(self, solver: str) -> _Made:
        whole = solver == "layers"
        found = self._reserve(whole)
        if set(found.devices) == {MAIN_MEMORY} and found.output == MAIN_MEMORY:
            plan = main_memory_plan(len(found.devices), self.settings.fingerprint, self.budgets)
            return _Made(plan, found.remarks)
        if whole:
            return _Made(self._plan(found, {}, solver), found.remarks)
        problem = self._open(found)
        if not problem.layers:
            return _Made(self._plan(found, {}, solver), found.remarks)
        solution, counts = self._solve(problem, solver)
        chosen = {i: problem.layers[i].order[:count] for i, count in counts.items()}
        plan = self._plan(found, chosen, solver)
        time, relaxation = problem.time(counts), lower_bound(problem)
        bound = max(relaxation, min(solution.bound, time)) if solver == "milp" else relaxation
        return _Made(plan, found.remarks, time, bound, relaxation, solution.seconds)

    def _reserve(self, whole: bool) -> Reservation:
        s = self.settings
        return reserve(
            self.work.sizes, self.budgets, margin=s.margin, max_layers=s.max_layers, shares=s.shares, whole=whole
        )

    def _open(self, found: Reservation) -> Problem:
        """The problem without the GPUs that hold all neurons of their layers: there the CPU stays idle."""
        problem = build_problem(
            self.work.sizes, found, self.work.activity, self.profile, self.settings.kind, self.settings.n_embd
        )
        everything = problem.used({i: layer.n_ff for i, layer in problem.layers.items()})
        tight = {gpu for gpu, room in enumerate(problem.room) if everything[gpu] > room}
        devices = {i: gpu for i, gpu in problem.devices.items() if gpu in tight}
        return replace(problem, layers={i: problem.layers[i] for i in devices}, devices=devices)

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
            layers.append(LayerPlacement(device, hot))
        return Plan(self.budgets, tuple(layers), found.output, solver, self.settings.fingerprint)
