"""Divisions among machines: by HiGHS, by dynamic programming, and by trying all of them."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from solver.machines.dynamic import solve_dynamic
from solver.machines.milp import solve_division
from solver.machines.problem import Division, Options, Site


def random_division(seed: int, n_groups: int, n_machines: int = 3, n_layer: int = 6) -> Division:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(1, 3, n_layer)
    speeds = rng.uniform(0.3, 2, n_machines)
    sites = [
        Site(
            tuple(Options(np.array([size / speed]), np.array([size]), np.zeros(1)) for size in sizes),
            float(rng.uniform(0.2, 0.9) * sizes.sum()),
            fixed=float(rng.uniform(0, 0.3)),
        )
        for speed in speeds
    ]
    carried = np.triu(rng.uniform(0.1, 4, (n_machines, n_machines)), 1)
    back = np.concatenate([[0], rng.uniform(0, 1, n_machines - 1)])
    return Division(tuple(sites), carried + rng.uniform(0, 0.5, carried.shape), carried, back, n_groups)


def tried(problem: Division, n_used: int) -> float:
    """The shortest period of all divisions."""
    n, found = problem.n_layer, [np.inf]
    others = range(1, len(problem.sites))
    used = (
        [(m,) for m in range(len(problem.sites))]
        if n_used == 1
        else [(0, *c) for c in combinations(others, n_used - 1)]
    )
    for machines in used:
        for inner in combinations(range(1, n), n_used - 1):
            cuts, stages = (0, *inner, n), []
            for m, begin, end in zip(machines, cuts, cuts[1:], strict=False):
                site = problem.sites[m]
                if sum(float(one.main[0]) for one in site.layers[begin:end]) > site.memory:
                    break
                stages.append(site.fixed + sum(float(one.seconds[0]) for one in site.layers[begin:end]))
            else:
                found.append(problem.period(machines, stages))
    return min(found)


@pytest.mark.parametrize("n_groups", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_all_ways_agree(seed: int, n_groups: int) -> None:
    problem = random_division(seed, n_groups)
    for n_used in (1, 2, 3):
        best, twin, exact = tried(problem, n_used), solve_dynamic(problem, n_used), solve_division(problem, n_used)
        if np.isinf(best):
            assert twin is None
            assert exact is None
            continue
        for found in (twin, exact):
            assert found is not None
            assert found.period == pytest.approx(best, rel=1e-9)
            assert len(found.machines) == n_used
            assert found.cuts[0] == 0
            assert found.cuts[-1] == problem.n_layer
            assert problem.period(found.machines, found.stages) == found.period
        assert exact is not None
        assert exact.bound <= exact.period
        assert exact.bound == pytest.approx(best, rel=2e-4)


def test_something_fits_in_these() -> None:
    """Else they would show nothing."""
    found = [solve_dynamic(random_division(seed, 1), n) for seed in range(4) for n in (1, 2, 3)]
    assert 2 < sum(one is None for one in found) < 9


def with_gpus(seed: int, n_groups: int) -> Division:
    """Each layer may lie on the GPU, or half of it."""
    plain, rng = random_division(seed, n_groups), np.random.default_rng(seed + 100)
    sites = []
    for site in plain.sites:
        gain = rng.uniform(2, 8)
        layers = [
            Options(
                one.seconds * np.array([1, 0.6, 1 / gain]),
                one.main * np.array([1, 0.5, 0]),
                one.main * np.array([0, 0.5, 1]),
            )
            for one in site.layers
        ]
        sites.append(Site(tuple(layers), site.memory, gpu=float(rng.uniform(0, 6)), fixed=site.fixed))
    return Division(tuple(sites), plain.border, plain.carried, plain.back, n_groups)


@pytest.mark.parametrize("seed", range(3))
def test_with_gpus_the_programme_is_no_worse(seed: int) -> None:
    for n_groups in (1, 3):
        problem = with_gpus(seed, n_groups)
        for n_used in (1, 2, 3):
            twin, exact = solve_dynamic(problem, n_used), solve_division(problem, n_used)
            if twin is None:
                continue
            assert exact is not None
            assert exact.bound <= exact.period <= twin.period
            assert twin.period <= 1.35 * exact.period  # of six layers, one or two may lie elsewhere


def test_a_gpu_is_used() -> None:
    problem, found = with_gpus(1, 1), []
    for share in (0.0, 1.0):
        sites = tuple(replace(site, memory=100.0, gpu=share * site.gpu) for site in problem.sites)
        found.append(solve_division(replace(problem, sites=sites), 2))
    assert found[1].period < found[0].period
