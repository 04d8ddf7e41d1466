"""Plans between "some of each layer on the GPU" and "whole layers": fewer layers there, and more of each of them hot.

A layer with hot parts must have its attention, its cache and its predictor or router on the GPU as well, and hands over
to the CPU and back in every token; in main memory it takes none of that.
"""

from collections.abc import Callable
from itertools import accumulate

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement, Reservation, no_neurons
from solver.placing.costs import CostOf
from solver.placing.device_profile import DeviceProfile
from solver.placing.greedy import solve_greedy
from solver.placing.problem import build_problem, options_by_time
from solver.placing.simulation import Work, before_ffn, layer_time

__all__ = ["better_start"]

TRIED = 16  # numbers of layers, before those beside the best of them
GAIN = 2e-3  # a share of the time that is a reason to leave layers in main memory that would fit


def better_start(
    work: Work, profile: DeviceProfile, cost_of: CostOf, reserve_from: Callable[[int], Reservation], start: int
) -> int | None:
    """The first layer on a GPU with which decoding is expected to be fastest, where it is later than `start`, and worth
    it; by the greedy solver. reserve_from: what lies where, if all layers before one stay in main memory.
    """
    n_layer = len(work.sizes.layers)
    stay = LayerPlacement(MAIN_MEMORY, no_neurons())
    main = [layer_time(i, stay, work, profile, cost_of).total for i in range(n_layer)]
    before = list(accumulate(main, initial=0.0))  # of so many layers in main memory

    def seconds(first: int) -> float:
        """But for what all of these plans have in common."""
        found = reserve_from(first)
        problem = build_problem(work.sizes, found, cost_of)
        hot = solve_greedy(problem, {i: options_by_time(layer) for i, layer in problem.layers.items()}).hot
        begin = next((i for i, device in enumerate(found.devices) if device != MAIN_MEMORY), n_layer)
        total = before[begin] + problem.time(hot)
        on = profile.cpu if found.output == MAIN_MEMORY else profile.gpu(found.output)
        total += work.head_seconds(on)
        for i in range(begin, n_layer):
            gpu = found.devices[i]
            total += before_ffn(work.sizes.layers[i], profile.gpu(gpu), work, profile)
            if i not in problem.layers:
                costs = cost_of(i, gpu)
                total += float(costs.time(np.array([costs.n_ff]))[0])
        return total

    step = max(1, (n_layer - start) // TRIED)
    known = {first: seconds(first) for first in range(start, n_layer, step)}
    around = min(known, key=lambda first: known[first])
    for first in range(max(start, around - step + 1), min(n_layer, around + step)):
        if first not in known:
            known[first] = seconds(first)
    best = min(known, key=lambda first: known[first])
    return best if known[best] < (1.0 - GAIN) * known[start] else None
