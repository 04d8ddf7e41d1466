"""The division by dynamic programming: exact where machines have no GPU; else options within a range are greedy."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from solver.machines.problem import Divided, Division, Floats, Options, Site

__all__ = ["even_out", "range_seconds", "solve_dynamic"]

ALIKE = 1e-3  # a share of the period that is given for stages of more even length


def range_seconds(site: Site) -> Floats:
    """[L + 1, L + 1]: what layers a to b - 1 take on a machine; infinite where they do not fit, or are none.

    On the GPU first what saves most a byte, as far as there is room.
    """
    n = len(site.layers)
    found = np.full((n + 1, n + 1), np.inf)
    least = [int(np.lexsort((one.seconds, one.gpu))[0]) for one in site.layers]
    base = np.array([one.seconds[at] for one, at in zip(site.layers, least, strict=True)])
    main = np.array([one.main[at] for one, at in zip(site.layers, least, strict=True)])
    steps = _steps(site, least)
    for begin in range(n):
        seconds, bytes_ = np.cumsum(base[begin:]), np.cumsum(main[begin:])
        for end in range(begin + 1, n + 1):
            time, used = seconds[end - begin - 1], bytes_[end - begin - 1]
            if len(steps):
                own = steps[(steps[:, 0] >= begin) & (steps[:, 0] < end)]
                taken = own[np.cumsum(own[:, 1]) <= site.gpu]
                time, used = time + taken[:, 2].sum(), used + taken[:, 3].sum()
            if used > site.memory:
                if not len(steps):
                    break  # more layers take more
                continue
            found[begin, end] = time + site.fixed
    return found


def _all_ranges(problem: Division) -> Floats:
    """[M, L + 1, L + 1], of each machine; those that are one object are found once."""
    known = {id(site): range_seconds(site) for site in {id(site): site for site in problem.sites}.values()}
    return np.stack([known[id(site)] for site in problem.sites])


def _steps(site: Site, least: list[int]) -> Floats:
    """[n, 4]: layer, bytes of the GPU, and what they add to seconds and main memory; what saves most a byte first."""
    steps = []
    for layer, (options, at) in enumerate(zip(site.layers, least, strict=True)):
        hull = [at]
        for i in np.argsort(options.gpu, kind="stable"):
            if options.gpu[i] <= options.gpu[at] or options.seconds[i] >= options.seconds[hull[-1]]:
                continue
            while len(hull) > 1 and _saved(options, hull[-1], i) >= _saved(options, hull[-2], hull[-1]):
                hull.pop()
            hull.append(int(i))
        for one, other in pairwise(hull):
            change = [float(values[other] - values[one]) for values in (options.gpu, options.seconds, options.main)]
            steps.append([float(layer), *change])
    return np.array(sorted(steps, key=lambda step: step[2] / step[1])).reshape(-1, 4)


def _saved(options: Options, one: int, other: int) -> float:
    """Seconds a byte of the GPU."""
    seconds, gpu = options.seconds, options.gpu
    return float((seconds[one] - seconds[other]) / (gpu[other] - gpu[one]))


def solve_dynamic(problem: Division, n_used: int) -> Divided | None:
    """The best division among exactly so many machines; None: there is none.

    With one group the least way; with several, over bounds of the busiest machine: the least way within each.
    """
    costs = _all_ranges(problem)
    if n_used == 1:
        alone = costs[:, 0, -1]
        best = int(alone.argmin())
        return _told(problem, (best,), (0, problem.n_layer), costs) if np.isfinite(alone[best]) else None
    if problem.n_groups == 1:
        return _least_way(problem, costs, n_used, np.inf)
    caps = np.unique(np.concatenate([costs[np.isfinite(costs)], problem.carried.ravel()]))
    low, high, best_found = 0, len(caps) - 1, None
    while low <= high:
        middle = (low + high) // 2
        found = _least_way(problem, costs, n_used, float(caps[middle]))
        if found is not None and (best_found is None or found.period < best_found.period):
            best_found = found
        if found is None or found.period > problem.n_groups * caps[middle]:
            low = middle + 1  # its way is what is long: with longer stages it may become shorter
        else:
            high = middle - 1
    return best_found


def even_out(problem: Division, made: Divided) -> Divided:
    """Of divisions that take about as long, one whose busiest machine has the least: the batches of a prompt are in
    work on all of them at once, whatever else is planned for.
    """
    if len(made.machines) == 1:
        return made
    costs = _all_ranges(problem)
    caps = np.unique(costs[np.isfinite(costs)])
    low, high, best = 0, int(np.searchsorted(caps, max(made.stages))), made
    while low <= high:
        middle = (low + high) // 2
        found = _least_way(problem, costs, len(made.machines), float(caps[min(middle, len(caps) - 1)]), wires=False)
        if found is not None and found.period <= (1 + ALIKE) * made.period:
            best, high = replace(found, bound=made.bound), middle - 1
        else:
            low = middle + 1
    return best if max(best.stages) < max(made.stages) else made


def _least_way(problem: Division, costs: Floats, n_used: int, cap: float, *, wires: bool = True) -> Divided | None:
    """No stage takes longer than `cap`. wires: nor is a wire busy for longer with a group."""
    within = np.where(costs <= cap, costs, np.inf)
    border = np.where((problem.carried <= cap) | (not wires), problem.border, np.inf)
    n_machines, n = len(problem.sites), problem.n_layer
    best = np.full((n_machines, n + 1), np.inf)
    best[0] = within[0, 0]
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(1, n_used):
        nexts = np.full_like(best, np.inf)
        before = np.zeros((n_machines, n + 1), np.int64)
        begins = np.zeros((n_machines, n + 1), np.int64)
        for m in range(1, n_machines):
            arriving = best[:m] + border[:m, m, None]
            before[m] = arriving.argmin(axis=0)
            total = arriving.min(axis=0)[:, None] + within[m]
            begins[m] = total.argmin(axis=0)
            nexts[m] = total.min(axis=0)
        chosen.append((before, begins))
        best = nexts
    ends = best[:, n] + problem.back
    if not np.isfinite(ends.min()):
        return None
    m, end = int(ends.argmin()), n
    machines, cuts = [m], [end]
    for before, begins in reversed(chosen):
        end = int(begins[m, end])
        m = int(before[m, end])
        machines.append(m)
        cuts.append(end)
    return _told(problem, tuple(reversed(machines)), (0, *reversed(cuts)), costs)


def _told(problem: Division, machines: tuple[int, ...], cuts: tuple[int, ...], costs: Floats) -> Divided:
    stages = tuple(float(costs[m, a, b]) for m, a, b in zip(machines, cuts[:-1], cuts[1:], strict=True))
    return Divided(machines, cuts, stages, problem.period(machines, stages))
