"""Products of many tokens with a matrix, against float64 sums over the dequantised weights."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.gemm import Product, gemm, make_workspace
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.formats.panels import FIXED_LARGEST, GROUP
from powerinfer_cli.kernels.jit.program import assemble
from tests.helpers.kernels.kernel_data import bundled_rows, random_vectors, values_for, weight_rows
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs

TEAM = team_of(3)
F32 = npt.NDArray[np.float32]


def run(x: Vectors, products: list[Product], tokens: int, threads: int = 2, *, fixed: bool = False) -> None:
    state = np.array([tokens, 0], np.int64)
    workspace = make_workspace(3, len(x.floats), x.n)
    workspace.packed[:] = 0xFF
    workspace.scratch[:] = 0xFF
    TEAM.run(assemble(gemm(state, x, products, workspace, fixed=fixed)).table, threads)


def outputs(tokens: int, n: int) -> F32:
    return np.full((tokens + 1, n + 3), np.nan, np.float32)


def check(out: F32, wanted: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> None:
    """`size`: the sums' terms' absolute values, summed. Nothing beside the wanted numbers was written."""
    tokens, n = wanted.shape
    assert np.abs(out[:tokens, :n] - wanted).max(initial=0) <= 2e-6 * size.max(initial=1)
    assert np.isnan(out[tokens:]).all()
    assert np.isnan(out[:, n:]).all()


def columns(kind: GGMLType) -> list[int]:
    if FORMATS[kind].is_float:
        return [1, 7, 32, 555]
    return [256, 2560] if FORMATS[kind].group == 16 or "_K" in kind.name or kind is GGMLType.IQ4_XS else [32, 96, 2144]


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format(kind: GGMLType) -> None:
    for n in columns(kind):
        matrix, w = weight_rows(kind, 71, n)
        x = random_vectors(9, n)
        values, out, bias = values_for(kind, x), outputs(9, 71), np.linspace(-1, 1, 71, dtype=np.float32)
        run(x, [Product(matrix, out, bias)], 9)
        check(out, values @ w.T + bias, np.abs(values) @ np.abs(w.T))


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.F16], ids=lambda kind: kind.name)
@pytest.mark.parametrize("n_rows", [1, 16, 33, 64, 130])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 6, 8, 13])
def test_odd_sizes(kind: GGMLType, n_rows: int, tokens: int) -> None:
    matrix, w = weight_rows(kind, n_rows, 96)
    x = random_vectors(13, 96)
    values, out = values_for(kind, x)[:tokens], outputs(13, n_rows)
    run(x, [Product(matrix, out)], tokens)
    check(out, values @ w.T, np.abs(values) @ np.abs(w.T))


def test_matrices_of_several_kinds_share_their_vectors() -> None:
    kinds = GGMLType.F32, GGMLType.Q8_0, GGMLType.Q4_1, GGMLType.F16
    x = random_vectors(7, 160)
    made = [weight_rows(kind, 40 + i, 160, seed=i) for i, kind in enumerate(kinds)]
    outs = [outputs(7, matrix.n_rows) for matrix, _ in made]
    run(x, [Product(matrix, out) for (matrix, _), out in zip(made, outs, strict=True)], 7, threads=3)
    for kind, (_, w), out in zip(kinds, made, outs, strict=True):
        values = values_for(kind, x)
        check(out, values @ w.T, np.abs(values) @ np.abs(w.T))


def product(matrix: WeightRows, x: Vectors, tokens: int, threads: int) -> F32:
    out = outputs(len(x.floats), matrix.n_rows)
    run(x, [Product(matrix, out)], tokens, threads)
    return out[:tokens, : matrix.n_rows]


@pytest.mark.parametrize("kind", [GGMLType.Q4_1, GGMLType.BF16], ids=lambda kind: kind.name)
def test_same_bits_whatever_the_threads_and_the_batch(kind: GGMLType) -> None:
    matrix, _ = weight_rows(kind, 300, 2144)
    x = random_vectors(14, 2144)
    one = product(matrix, x, 14, 1)
    for threads in (2, 3):
        assert np.array_equal(product(matrix, x, 14, threads), one)
    for tokens in (1, 2, 5, 9):
        assert np.array_equal(product(matrix, x, tokens, 2), one[:tokens])


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q5_1], ids=lambda kind: kind.name)
def test_rows_as_in_the_file(kind: GGMLType) -> None:
    x = random_vectors(4, 2144)
    repacked, in_file = (weight_rows(kind, 70, 2144, scratch_threads=n)[0] for n in (0, 3))
    assert np.array_equal(product(repacked, x, 4, 3), product(in_file, x, 4, 3))


def in_fixed_point(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Each 128 numbers as integers up to 4095, times a scale."""
    n = rows.shape[1]
    groups = np.pad(rows.astype(np.float32), ((0, 0), (0, -n % GROUP))).reshape(len(rows), -1, GROUP)
    peaks = np.abs(groups).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(FIXED_LARGEST), peaks, out=np.zeros_like(peaks), where=peaks > 0)
    scales = (peaks / np.float32(FIXED_LARGEST)).astype(np.float64)
    return (np.rint(groups * inverse) * scales).reshape(len(rows), -1)[:, :n]


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.BF16], ids=lambda kind: kind.name)
@pytest.mark.parametrize("n", [1, 96, 128, 555, 1300])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_fixed_point(kind: GGMLType, n: int, tokens: int) -> None:
    matrix, w = weight_rows(kind, 71, n)
    x = random_vectors(9, n)
    out, bias = outputs(9, 71), np.linspace(-1, 1, 71, dtype=np.float32)
    run(x, [Product(matrix, out, bias)], tokens, fixed=True)
    values, weights = in_fixed_point(x.floats[:tokens, :n]), in_fixed_point(w)
    check(out, values @ weights.T + bias, np.abs(values) @ np.abs(weights.T))
    assert np.abs(out[:tokens, :71] - x.floats[:tokens, :n] @ w.T - bias).max() <= 1e-3 * np.sqrt(n)


def test_fixed_point_holds_the_largest_sums() -> None:
    x, (matrix, _) = random_vectors(3, 384), weight_rows(GGMLType.F16, 40, 384)
    matrix.data[: 40 * 768].view(np.float16)[:] = -2.0
    x.floats[:3, :384] = np.array([[3.0], [-3.0], [0.0]])
    out = outputs(3, 40)
    run(x, [Product(matrix, out)], 3, fixed=True)
    check(out, np.array([[-2304.0], [2304.0], [0.0]]) * np.ones(40), np.full((3, 40), 2304.0))


def test_other_types_are_not_in_fixed_point() -> None:
    x = random_vectors(9, 256)
    for kind in (GGMLType.F32, GGMLType.Q8_0):
        matrix, _ = weight_rows(kind, 40, 256)
        found = [outputs(9, 40), outputs(9, 40)]
        for fixed, out in enumerate(found):
            run(x, [Product(matrix, out)], 9, fixed=bool(fixed))
        assert np.array_equal(*found, equal_nan=True)


@pytest.mark.parametrize("kind", [kind for kind, found in FORMATS.items() if found.whole], ids=lambda k: k.name)
def test_bundles_are_the_rows_that_they_hold(kind: GGMLType) -> None:
    n = 2144 if BLOCK[kind][0] == 32 else 2304
    x = random_vectors(8, n)
    for n_rows in (5, 71):
        rows, _ = weight_rows(kind, n_rows, n)
        bundles, _ = bundled_rows(kind, n_rows, n, kind_of_bundles=Bundled.WHOLE)
        for tokens in (1, 8):
            assert np.array_equal(product(bundles, x, tokens, 2), product(rows, x, tokens, 2))
