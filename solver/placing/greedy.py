"""The greedy twin of the MILP, and what both end with: the last few neurons, one by one."""

import heapq
import time
from collections.abc import Mapping

import numpy as np

from solver.placing.costs import Counts
from solver.placing.problem import Options, Problem, Solution

__all__ = ["fill_up", "solve_greedy"]


def solve_greedy(problem: Problem, options: Mapping[int, Options]) -> Solution:
    """Steps along each layer's lower hull, the one that saves most a byte first; what does not fit is passed over."""
    start = time.perf_counter()
    hulls = {i: _hull(found) for i, found in options.items()}
    steps = []
    for index, hull in hulls.items():
        rates = np.diff(options[index].cost[hull]) / np.diff(options[index].bytes[hull])
        steps += [(float(saved), index, place) for place, saved in enumerate(rates, start=1)]
    free = [float(room) for room in problem.room]
    chosen = dict.fromkeys(options, 0)
    bound = sum(float(found.cost[0]) for found in options.values())
    full: set[int] = set()  # GPUs on which a step did not fit: the bound ends with a part of it
    for saved, index, place in sorted(steps):
        gpu, found, hull = problem.devices[index], options[index], hulls[index]
        size = float(found.bytes[hull[place]] - found.bytes[hull[place - 1]])
        if gpu not in full:
            bound += saved * min(size, free[gpu])
        if size > free[gpu]:
            full.add(gpu)
        elif chosen[index] == place - 1:
            chosen[index] = place
            free[gpu] -= size
    picks = {i: int(hulls[i][place]) for i, place in chosen.items()}
    hot = {i: int(options[i].counts[pick]) for i, pick in picks.items()}
    cost = sum(float(options[i].cost[pick]) for i, pick in picks.items())
    return Solution(hot, cost, bound, time.perf_counter() - start)


def _hull(options: Options) -> Counts:
    """The lower convex hull of (bytes, cost), from the fewest bytes to the least cost: indices of options."""
    hull: list[int] = []
    for i in range(int(options.cost.argmin()) + 1):
        while len(hull) > 1 and _above(options, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return np.array(hull, np.int64)


def _above(options: Options, a: int, b: int, c: int) -> bool:
    """Is b on or above the line from a to c?"""
    size, cost = options.bytes, options.cost
    return bool((cost[b] - cost[a]) * (size[c] - size[a]) >= (cost[c] - cost[a]) * (size[b] - size[a]))


def fill_up(problem: Problem, hot: Mapping[int, int]) -> dict[int, int]:
    """Add neurons one by one, the one that saves most a byte first, while there is room and time is saved."""
    filled = dict(hot)
    free = [room - used for room, used in zip(problem.room, problem.used(filled), strict=True)]
    heap: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        layer, count = problem.layers[index], filled[index]
        if count < layer.n_ff and layer.neuron <= free[problem.devices[index]]:
            now, then = layer.time(np.array([count, count + 1]))
            if then < now:
                heapq.heappush(heap, (float(then - now) / layer.neuron, index))

    for index in filled:
        offer(index)
    while heap:
        _, index = heapq.heappop(heap)
        gpu, size = problem.devices[index], problem.layers[index].neuron
        if size <= free[gpu]:
            filled[index] += 1
            free[gpu] -= size
            offer(index)
    return filled
