"""Compiled fits find what the plain twin finds."""

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, GGUFError, dequantize, encoders
from powerinfer_cli.gguf_io.encoders import SEARCHED, Grid, PlainFit
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit, encode

pytestmark = pytest.mark.rungs

GRIDS = [
    Grid(-8, 7),
    Grid(0, 15, minima=True),
    Grid(0, 31, minima=True, below=True),
    Grid(-127, 113, levels=(-127, -65, -22, 1, 25, 53, 113)),
]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def groups(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Also zeros, constants, and such as are far from 0."""
    x, weights = normal(count, size), np.random.default_rng(1).uniform(0.1, 3, (count, size)).astype(np.float32)
    if count > 4:
        x[0], x[1], x[2], x[3] = 0, 0.5, -0.5, x[3] + 10
    return x, weights


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("count", "size"), [(1, 32), (16, 16), (45, 32), (0, 16)])
def test_scales(grid: Grid, count: int, size: int) -> None:
    x, weights = groups(count, size)
    errors = []
    for fit in (PlainFit(), CompiledFit()):
        found = fit.search(x, weights, grid)
        assert np.isfinite(found.d).all()
        assert np.isfinite(found.m).all()
        assert not grid.below or (found.m <= 0).all()
        chosen = PlainFit().choose(x, weights, grid, found.d[None], found.m[None])
        errors.append(chosen.error)
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.05, atol=1e-4)
    assert errors[1].sum() == pytest.approx(errors[0].sum(), rel=0.01)


@pytest.mark.parametrize("grid", GRIDS)
def test_choices(grid: Grid) -> None:
    x, weights = groups(37, 16)
    rng = np.random.default_rng(2)
    d = rng.uniform(0.05, 0.3, (5, 37)).astype(np.float32)
    m = rng.uniform(-2, 0, (5, 37)).astype(np.float32) if grid.minima else np.zeros((5, 37), np.float32)
    d[3], m[3] = d[1], m[1]  # of equal ones the first
    d[4, :5] = 0
    plain, compiled = (fit.choose(x, weights, grid, d, m) for fit in (PlainFit(), CompiledFit()))
    assert 3 not in compiled.number
    np.testing.assert_array_equal(compiled.number, plain.number)
    np.testing.assert_allclose(compiled.error, plain.error, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compiled.sums, plain.sums, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("grid", [*GRIDS, Grid(-127, 127)])
@pytest.mark.parametrize(("count", "size"), [(1, 32), (37, 16), (0, 16)])
def test_places(grid: Grid, count: int, size: int) -> None:
    x, rng = groups(count, size)[0], np.random.default_rng(2)
    d = rng.uniform(0.01, 0.3, count).astype(np.float32)
    d[:5:2] = 0
    m = rng.uniform(-2, 0, count).astype(np.float32) if grid.minima else np.zeros(count, np.float32)
    plain, compiled = (fit.places(x, d, m, grid) for fit in (PlainFit(), CompiledFit()))
    np.testing.assert_array_equal(compiled, plain)


@pytest.mark.parametrize("kind", sorted(SEARCHED), ids=lambda kind: kind.name)
def test_rows_in_parallel(kind: GGMLType) -> None:
    x = normal(150, 768) * np.float32(0.02)
    stored = encode(x, kind, threads=2)
    np.testing.assert_array_equal(stored, encode(x, kind, threads=1))
    plain = encoders.encode(x[:20], kind)
    errors = [((dequantize(one, kind) - x[:20]) ** 2).sum() for one in (stored[:20], plain)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)
    assert (stored[:20] == plain).mean() > 0.9


def test_errors_come_from_any_thread() -> None:
    x = normal(400, 768)
    x[399, 0] = np.nan
    with pytest.raises(GGUFError, match="cannot be stored as Q4_K"):
        encode(x, GGMLType.Q4_K)


@pytest.mark.parametrize(("n_entries", "width"), [(256, 4), (512, 8), (16, 8)])
@pytest.mark.parametrize("scales", [1, 3, 8])
def test_nearest_entries(n_entries: int, width: int, scales: int) -> None:
    table = np.random.default_rng(2).integers(-9, 9, (n_entries, width)).astype(np.float32)
    x, weights = groups(37, width)
    inverses = np.random.default_rng(3).uniform(0, 4, (37, scales)).astype(np.float32)
    plain, made = (fit.nearest(x, weights, table, inverses) for fit in (PlainFit(), CompiledFit()))
    costs = [one.qq - 2 * inverses * one.qx for one in (plain, made)]
    np.testing.assert_allclose(costs[1], costs[0], rtol=1e-5, atol=1e-4)  # ties in last bits may go either way
    chosen = table[made.number]
    np.testing.assert_allclose(made.qq, (weights[:, None] * chosen * chosen).sum(2), rtol=1e-5)
    np.testing.assert_allclose(made.qx, ((weights * x)[:, None] * chosen).sum(2), rtol=1e-4, atol=1e-4)
    assert (made.number == plain.number).mean() > 0.99
