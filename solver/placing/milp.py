"""The placement problem as a mixed-integer programme for HiGHS: one binary variable for each option of each layer."""

import time
from collections.abc import Mapping

import highspy
import numpy as np

from solver.placing.costs import Floats
from solver.placing.greedy import solve_greedy
from solver.placing.highs import run_highs
from solver.placing.problem import Options, Problem, Solution

__all__ = ["solve_milp"]

GAP = 1e-3  # below the one in a hundred that is promised, as it costs little
MOST_NODES = 5000  # ends a long search at the same place every time, where the clock would not
TIME_LIMIT = 10.0  # seconds


def solve_milp(
    problem: Problem, options: Mapping[int, Options], *, gap: float = GAP, time_limit: float = TIME_LIMIT
) -> Solution:
    """One option for each layer, within each GPU's room, at the least cost.

    The result is proven to be within `gap` of the best (a share), unless the time limit ends the search: then it is
    the best that was found, no worse than the greedy one, with the bound that was reached. All of it holds for these
    options; filled up neuron by neuron, the greedy one may still become the better. One thread and a fixed seed: the
    same problem has the same answer.
    """
    start = time.perf_counter()
    fallback = solve_greedy(problem, options)
    if not options:
        return fallback
    scale = max(float(found.cost.max()) for found in options.values()) or 1.0
    highs = run_highs(_model(problem, options, scale), gap, MOST_NODES, time_limit)
    info = highs.getInfo()
    seconds = time.perf_counter() - start
    bound = max(fallback.bound, info.mip_dual_bound * scale) if np.isfinite(info.mip_dual_bound) else fallback.bound
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return Solution(fallback.hot, fallback.cost, bound, seconds)
    hot, cost = _chosen(options, np.array(highs.getSolution().col_value))
    fits = all(used <= room for used, room in zip(problem.used(hot), problem.room, strict=True))
    if not fits or cost >= fallback.cost:  # tolerances of HiGHS may break a budget by a hair
        hot, cost = fallback.hot, fallback.cost
    return Solution(hot, cost, min(bound, cost), seconds)


def _model(problem: Problem, options: Mapping[int, Options], scale: float) -> highspy.HighsLp:
    """Rows: one choice for each layer, then each GPU's bytes as a share of its room. Costs in units of `scale`."""
    n_layer, n_gpu = len(options), len(problem.room)
    counts = [found.counts.size for found in options.values()]
    rooms = np.array([max(room, 1) for room in problem.room], np.float64)
    layer_rows = np.repeat(np.arange(n_layer), counts)
    gpus = np.repeat([problem.devices[i] for i in options], counts)
    sizes = np.concatenate([found.bytes for found in options.values()]) / rooms[gpus]
    n = layer_rows.size
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n, n_layer + n_gpu
    lp.col_cost_ = np.concatenate([found.cost for found in options.values()]) / scale
    lp.col_lower_, lp.col_upper_ = np.zeros(n), np.ones(n)
    lp.row_lower_ = np.concatenate([np.ones(n_layer), np.full(n_gpu, -highspy.kHighsInf)])
    lp.row_upper_ = np.concatenate([np.ones(n_layer), [1.0 if room else 0.0 for room in problem.room]])
    lp.integrality_ = [highspy.HighsVarType.kInteger] * n
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.arange(0, 2 * n + 1, 2)
    lp.a_matrix_.index_ = np.stack([layer_rows, n_layer + gpus], axis=1).ravel()
    lp.a_matrix_.value_ = np.stack([np.ones(n), sizes], axis=1).ravel()
    return lp


def _chosen(options: Mapping[int, Options], values: Floats) -> tuple[dict[int, int], float]:
    hot, cost, at = {}, 0.0, 0
    for index, found in options.items():
        pick = int(values[at : at + found.counts.size].argmax())
        hot[index] = int(found.counts[pick])
        cost += float(found.cost[pick])
        at += found.counts.size
    return hot, cost
