"""The division as a mixed-integer programme for HiGHS.

Binary variables: o[m, l, k], layer l on machine m by its option k; w[m, j], machine j comes next behind m; e[m], it is
the last. With s[m, l] the sum of o over k, and u[m] = e[m] + sum of w[m, j]: whether m is used,

    sum over m of s[m, l] = 1                                       each layer is somewhere
    sum over i <= m of s[i, l] >= sum over i <= m of s[i, l + 1]    in order, so that ranges are whole
    s[m, l] <= u[m] <= sum over l of s[m, l]                        who is used has a layer
    u[0] = 1, sum over i of w[i, m] = u[m] behind it, sum of e = 1, sum of u = n
    bytes of options within each machine's memory, and its GPUs'
    t >= the way; t >= n_groups * each stage; t >= n_groups * carried[m, j] w[m, j]

and t is to be least.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import highspy
import numpy as np

from solver.machines.dynamic import solve_dynamic
from solver.machines.problem import Divided, Division, Floats, Options, Site
from solver.placing.highs import run_highs

__all__ = ["solve_division"]

GAP = 1e-4
MOST_NODES = 2000  # ends a long search at the same place every time, where the clock would not
TIME_LIMIT = 10.0  # seconds
ALIKE = 1e-9  # a share of the period that tolerances make


def solve_division(
    problem: Division, n_used: int, *, gap: float = GAP, time_limit: float = TIME_LIMIT
) -> Divided | None:
    """The best division among exactly so many machines, proven within `gap` unless time ends the search: then no worse
    than that of dynamic programming, with the bound that was reached. None: there is none.
    """
    twin = solve_dynamic(problem, n_used)
    if n_used == 1 and not any(site.gpu for site in problem.sites):
        return twin and replace(twin, bound=twin.period)
    longest = max(float(one.seconds.max()) for site in problem.sites for one in site.layers)
    scale = longest if twin is None else twin.period
    programme = _Programme(problem, n_used, scale)
    highs = run_highs(programme.model(), gap, MOST_NODES, time_limit)
    info = highs.getInfo()
    bound = info.mip_dual_bound * scale if np.isfinite(info.mip_dual_bound) else 0.0
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return twin and replace(twin, bound=min(bound, twin.period))
    found = programme.divided(np.array(highs.getSolution().col_value))
    if found is None or (twin is not None and found.period >= twin.period * (1 - ALIKE)):
        return twin and replace(twin, bound=min(bound, twin.period))
    return replace(found, bound=min(bound, found.period))


@dataclass
class _Programme:
    """Columns are t, then o by machine, layer and option, then w, then e."""

    problem: Division
    n_used: int
    scale: float
    _rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sites, n = self.problem.sites, self.problem.n_layer
        self._starts = np.zeros((len(sites), n + 1), np.int64)
        at = 1
        for m, site in enumerate(sites):
            for layer, options in enumerate(site.layers):
                self._starts[m, layer] = at
                at += len(options.seconds)
            self._starts[m, n] = at
        self._w = {}
        for m in range(len(sites)):
            for j in range(m + 1, len(sites)):
                self._w[m, j] = at
                at += 1
        self._e = range(at, at + len(sites))
        self._n = at + len(sites)

    def _o(self, m: int, layer: int) -> range:
        """Of a layer on a machine."""
        return range(int(self._starts[m, layer]), int(self._starts[m, layer + 1]))

    def model(self) -> highspy.HighsLp:
        self._add_ranges()
        self._add_machines()
        self._add_bytes()
        self._add_time()
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self._n, len(self._rows)
        lp.col_cost_ = np.eye(1, self._n)[0]
        upper = np.ones(self._n)
        upper[0] = highspy.kHighsInf
        lp.col_lower_, lp.col_upper_ = np.zeros(self._n), upper
        lp.row_lower_ = np.array([low for _, low, _ in self._rows])
        lp.row_upper_ = np.array([high for _, _, high in self._rows])
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kContinuous] + [kinds.kInteger] * (self._n - 1)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0, *(len(row) for row, _, _ in self._rows)])
        lp.a_matrix_.index_ = np.array([i for row, _, _ in self._rows for i in row], np.int32)
        lp.a_matrix_.value_ = np.array([x for row, _, _ in self._rows for x in row.values()])
        return lp

    def _add(self, row: dict[int, float], low: float = -highspy.kHighsInf, high: float = highspy.kHighsInf) -> None:
        self._rows.append((row, low, high))

    def _used(self, m: int) -> list[int]:
        """The columns whose sum is u[m]."""
        return [self._e[m], *(at for (i, _), at in self._w.items() if i == m)]

    def _add_ranges(self) -> None:
        n_machines, n = len(self.problem.sites), self.problem.n_layer
        for layer in range(n):
            self._add(_sum(i for m in range(n_machines) for i in self._o(m, layer)), 1, 1)
        for m in range(n_machines - 1):
            for layer in range(n - 1):
                row = _sum(i for one in range(m + 1) for i in self._o(one, layer))
                self._add(row | _sum((i for one in range(m + 1) for i in self._o(one, layer + 1)), -1.0), low=0)

    def _add_machines(self) -> None:
        sites, n = self.problem.sites, self.problem.n_layer
        for m in range(len(sites)):
            used = _sum(self._used(m), -1.0)
            for layer in range(n):
                self._add(_sum(self._o(m, layer)) | used, high=0)
            self._add(_sum(i for layer in range(n) for i in self._o(m, layer)) | used, low=0)
            if m and self.n_used > 1:
                self._add(_sum(at for (_, j), at in self._w.items() if j == m) | used, 0, 0)
        if self.n_used > 1:
            self._add(_sum(self._used(0)), 1, 1)
        self._add(_sum(self._e), 1, 1)
        self._add(_sum(i for m in range(len(sites)) for i in self._used(m)), self.n_used, self.n_used)

    def _add_bytes(self) -> None:
        for m, site in enumerate(self.problem.sites):
            main, gpu = [one.main for one in site.layers], [one.gpu for one in site.layers]
            for room, values in ((site.memory, main), (site.gpu, gpu)):
                row = self._weighed(m, values)
                if room > 0:
                    self._add({i: x / room for i, x in row.items()}, high=1)
                elif row:
                    self._add(_sum(row), 0, 0)

    def _weighed(self, m: int, values: Sequence[Floats]) -> dict[int, float]:
        """Options of a machine, and what is not zero of theirs."""
        pairs = ((i, float(x)) for layer, one in enumerate(values) for i, x in zip(self._o(m, layer), one, strict=True))
        return {i: x for i, x in pairs if x}

    def _add_time(self) -> None:
        problem, s = self.problem, self.scale
        way: dict[int, float] = {0: -1.0}
        for m, site in enumerate(problem.sites):
            stage = self._weighed(m, [one.seconds / s for one in site.layers])
            stage |= {i: site.fixed / s for i in self._used(m) if site.fixed}
            if problem.n_groups > 1:
                self._add({i: problem.n_groups * x for i, x in stage.items()} | {0: -1.0}, high=0)
            for i, x in stage.items():
                way[i] = way.get(i, 0.0) + x
            if self.n_used > 1:
                way[self._e[m]] = way.get(self._e[m], 0.0) + float(problem.back[m]) / s
        for pair, at in self._w.items():
            way[at] = way.get(at, 0.0) + float(problem.border[pair]) / s
            if problem.n_groups > 1:
                self._add({at: problem.n_groups * float(problem.carried[pair]) / s, 0: -1.0}, high=0)
        self._add(way, high=0)

    def divided(self, values: Floats) -> Divided | None:
        """None where tolerances of HiGHS have broken a limit by a hair."""
        problem, n = self.problem, self.problem.n_layer
        where, options = [], []
        for layer in range(n):
            of = [values[self._starts[m, layer] : self._starts[m, layer + 1]] for m in range(len(problem.sites))]
            m = int(np.argmax([one.max() for one in of]))
            where.append(m)
            options.append(int(of[m].argmax()))
        machines = tuple(dict.fromkeys(where))
        if sorted(where) != where or len(machines) != self.n_used:
            return None
        stages = []
        for m in machines:
            site = problem.sites[m]
            own = [(site.layers[i], k) for i, k in enumerate(options) if where[i] == m]
            if not _fits(site, own):
                return None
            stages.append(site.fixed + sum(float(one.seconds[k]) for one, k in own))
        cuts = (*(where.index(m) for m in machines), n)
        return Divided(machines, cuts, tuple(stages), problem.period(machines, stages))


def _fits(site: Site, chosen: Sequence[tuple[Options, int]]) -> bool:
    main = sum(float(one.main[k]) for one, k in chosen)
    gpu = sum(float(one.gpu[k]) for one, k in chosen)
    return main <= site.memory and gpu <= site.gpu


def _sum(columns: Iterable[int], factor: float = 1.0) -> dict[int, float]:
    return dict.fromkeys(columns, factor)
