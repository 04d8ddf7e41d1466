"""One token times a matrix, against float64 sums over the dequantised weights."""

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.matvec import matvec, matvec_few, token_panels
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.jit.program import assemble
from tests.helpers.kernels.kernel_data import bundled_rows, random_vectors, values_for, weight_rows
from tests.helpers.kernels.teams import team_of

TEAM = team_of(4)
F32 = npt.NDArray[np.float32]
BUNDLED = [kind for kind, found in FORMATS.items() if found.whole]
LAYOUTS = [(kind, False) for kind in FORMATS] + [(kind, True) for kind in BUNDLED]


def made_rows(kind: GGMLType, n_rows: int, n_cols: int, whole: bool) -> tuple[WeightRows, npt.NDArray[np.float64]]:
    """Row by row, or in bundles."""
    if whole:
        return bundled_rows(kind, n_rows, n_cols, kind_of_bundles=Bundled.WHOLE)
    return weight_rows(kind, n_rows, n_cols)


def name_of(value: object) -> str:
    return value.name if isinstance(value, GGMLType) else "bundled" if value is True else "rows"


def product(rows: WeightRows, x: Vectors, bias: F32 | None = None, shares: int = 2, threads: int = 2) -> F32:
    """Nothing but the result is written, and it is there once."""
    out = np.full(rows.n_rows + 5, np.nan, np.float32)
    TEAM.run(assemble([matvec(rows, x, out, bias, threads=shares)]).table, threads)
    assert np.isnan(out[rows.n_rows :]).all()
    return out[: rows.n_rows]


def check(rows: WeightRows, w: npt.NDArray[np.float64], kind: GGMLType, bias: F32 | None = None) -> None:
    x = random_vectors(2, rows.n_cols)
    x.floats[1], x.records[1] = np.nan, 0xFF  # the other token's
    values = values_for(kind, x)[0]
    wanted = w @ values + (0 if bias is None else bias)
    found = product(rows, x, bias)
    assert np.abs(found - wanted).max(initial=0) <= 2e-6 * (np.abs(w) @ np.abs(values)).max(initial=1)


@pytest.mark.parametrize(("kind", "whole"), LAYOUTS, ids=name_of)
def test_every_format(kind: GGMLType, whole: bool) -> None:
    blocks = "_K" in kind.name or kind is GGMLType.IQ4_XS
    for n in [1, 7, 33, 555] if FORMATS[kind].is_float else [256, 2304] if blocks else [32, 96, 2144]:
        rows, w = made_rows(kind, 37, n, whole)
        check(rows, w, kind, np.linspace(-1, 1, 37, dtype=np.float32))


@pytest.mark.rungs
@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        (GGMLType.Q4_0, False),
        (GGMLType.F16, False),
        (GGMLType.Q5_1, True),
        (GGMLType.Q4_K, True),
        (GGMLType.Q6_K, True),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 15, 64, 65, 129, 500])
def test_odd_numbers_of_rows(kind: GGMLType, whole: bool, n_rows: int) -> None:
    rows, w = made_rows(kind, n_rows, max(96, BLOCK[kind][0]), whole)
    check(rows, w, kind)


@pytest.mark.rungs
@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q6_K], ids=lambda kind: kind.name)
def test_rows_as_in_the_file(kind: GGMLType) -> None:
    x = random_vectors(1, 512)
    repacked, in_file = (weight_rows(kind, 70, 512, scratch_threads=n)[0] for n in (0, 4))
    for threads in (1, 2, 4):
        assert np.array_equal(product(repacked, x), product(in_file, x, threads=threads))


@pytest.mark.rungs
@pytest.mark.parametrize("n_rows", [3, 71, 400])
@pytest.mark.parametrize(("kind", "whole"), [(GGMLType.Q4_K, False), (GGMLType.Q3_K, True)], ids=name_of)
def test_same_bits_whatever_the_threads_and_the_shares(kind: GGMLType, whole: bool, n_rows: int) -> None:
    rows, _ = made_rows(kind, n_rows, 512, whole)
    x = random_vectors(1, 512)
    one = product(rows, x, shares=1, threads=1)
    for shares in (1, 2, 3, 7):
        for threads in (1, 2, 4):
            assert np.array_equal(product(rows, x, shares=shares, threads=threads), one)


@pytest.mark.rungs
@pytest.mark.parametrize(("kind", "whole"), LAYOUTS, ids=name_of)
@pytest.mark.parametrize(("n_tokens", "n"), [(2, 512), (3, 2560), (8, 4352), (13, 512)])
def test_a_few_tokens_get_what_each_would_alone(kind: GGMLType, whole: bool, n_tokens: int, n: int) -> None:
    n, room = n + 5 if FORMATS[kind].is_float else n, n_tokens + 2
    rows, _ = made_rows(kind, 71, n, whole)
    x, bias = random_vectors(room, n), np.linspace(-1, 1, 71, dtype=np.float32)
    x.floats[n_tokens:], x.records[n_tokens:] = np.nan, 0xFF
    state, out = np.array([n_tokens, 0], np.int64), np.full((room, 80), np.nan, np.float32)
    panels = token_panels(4, n)
    for threads in (1, 4):
        panels[:] = 0xFF
        program = assemble([matvec_few(state, rows, x, out, bias, panels=panels, threads=threads)])
        TEAM.run(program.table, threads)
        for t in range(n_tokens):
            one = make_vectors(1, n)
            one.floats[0], one.records[0] = x.floats[t], x.records[t]
            assert out[t, :71].tobytes() == product(rows, one, bias).tobytes()
        assert np.isnan(out[n_tokens:]).all()
        assert np.isnan(out[:, 71:]).all()


@pytest.mark.rungs
@pytest.mark.parametrize("kind", [GGMLType.Q4_K, GGMLType.F16], ids=lambda kind: kind.name)
def test_a_few_tokens_and_rows_as_in_the_file(kind: GGMLType) -> None:
    repacked, in_file = (weight_rows(kind, 21, 512, scratch_threads=n)[0] for n in (0, 2))
    x, state, panels = random_vectors(9, 512), np.array([9, 0], np.int64), token_panels(2, 512)
    for rows in (repacked, in_file):
        out = np.zeros((9, 21), np.float32)
        TEAM.run(assemble([matvec_few(state, rows, x, out, panels=panels, threads=2)]).table, 2)
        assert out[8].tobytes() == product(repacked, Vectors(512, x.floats[8:], x.records[8:])).tobytes()
