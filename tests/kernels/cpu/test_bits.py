"""Products to the bit: what their definition says, so that every set of instructions gives the same.

Without fused multiplications and additions, as on an x86 CPU below AVX2, products are rounded before they are added;
this is the one difference, and `exact_sums` has it.
"""

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.gemm import Product, gemm, make_workspace
from powerinfer_cli.kernels.cpu.matvec import matvec, matvec_few, token_panels
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.sparse.asking import ask_batch
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.jit.program import assemble
from tests.helpers.kernels import exact_sums
from tests.helpers.kernels.kernel_data import bundled_rows, random_vectors, weight_rows
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs

TEAM = team_of(1)
ROWS, TOKENS = 37, 9
F32 = npt.NDArray[np.float32]
BLOCKS = [kind for kind, f in FORMATS.items() if not f.is_float]
FLOATS = [kind for kind, f in FORMATS.items() if f.is_float]
WHOLE = [kind for kind, f in FORMATS.items() if f.whole]
ASKED = [kind for kind, f in FORMATS.items() if f.dot_bundle]


def name_of(kind: GGMLType) -> str:
    return kind.name


def columns(kind: GGMLType) -> int:
    """Chunks, and a part of one."""
    return 1120 if BLOCK[kind][0] == 32 else 1280


def of_one(rows: WeightRows, x: Vectors) -> F32:
    """[T, R], token by token."""
    found = np.zeros((TOKENS, ROWS), np.float32)
    for t in range(TOKENS):
        one = Vectors(x.n, x.floats[t:], x.records[t:])
        TEAM.run(assemble([matvec(rows, one, found[t], threads=1)]).table, 1)
    return found


def of_few(rows: WeightRows, x: Vectors) -> F32:
    found, state = np.zeros((TOKENS, ROWS), np.float32), np.array([TOKENS, 0], np.int64)
    panels = token_panels(1, x.n)
    TEAM.run(assemble([matvec_few(state, rows, x, found, panels=panels, threads=1)]).table, 1)
    return found


def of_many(rows: WeightRows, x: Vectors) -> F32:
    found, state = np.zeros((TOKENS, ROWS), np.float32), np.array([TOKENS, 0], np.int64)
    workspace = make_workspace(1, TOKENS, x.n)
    TEAM.run(assemble(gemm(state, x, [Product(rows, found)], workspace)).table, 1)
    return found


def of_asked(rows: WeightRows, x: Vectors) -> F32:
    state, stride = np.array([TOKENS, 0], np.int64), -(-ROWS // 16) * 16
    found = np.zeros((TOKENS, stride), np.float32)
    TEAM.run(assemble([ask_batch(state, x, rows, found, stride)]).table, 1)
    return found[:, :ROWS]


def check(found: F32, wanted: F32) -> None:
    np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("kind", BLOCKS, ids=name_of)
def test_rows(kind: GGMLType) -> None:
    x = random_vectors(TOKENS, columns(kind))
    rows, _ = weight_rows(kind, ROWS, x.n)
    groups = exact_sums.groups_of(kind, rows, x)
    check(of_one(rows, x), exact_sums.by_lanes(groups))
    check(of_few(rows, x), exact_sums.by_lanes(groups))
    check(of_many(rows, x), exact_sums.by_columns(groups))


@pytest.mark.parametrize("kind", WHOLE, ids=name_of)
def test_bundles(kind: GGMLType) -> None:
    x = random_vectors(TOKENS, columns(kind))
    rows, _ = weight_rows(kind, ROWS, x.n)
    bundles, _ = bundled_rows(kind, ROWS, x.n, kind_of_bundles=Bundled.WHOLE)
    groups = exact_sums.groups_of(kind, rows, x)
    check(of_one(bundles, x), exact_sums.by_halves(groups))
    check(of_few(bundles, x), exact_sums.by_halves(groups))
    check(of_many(bundles, x), exact_sums.by_columns(groups))


@pytest.mark.parametrize("kind", ASKED, ids=name_of)
def test_asked_bundles(kind: GGMLType) -> None:
    x = random_vectors(TOKENS, columns(kind))
    rows, _ = weight_rows(kind, ROWS, x.n)
    bundles, _ = bundled_rows(kind, ROWS, x.n)
    check(of_asked(bundles, x), exact_sums.by_columns(exact_sums.groups_of(kind, rows, x), asked=True))


@pytest.mark.parametrize("kind", FLOATS, ids=name_of)
def test_floats(kind: GGMLType) -> None:
    x = random_vectors(TOKENS, 235)
    rows, values = weight_rows(kind, ROWS, x.n)
    w = values.astype(np.float32)
    check(of_one(rows, x), exact_sums.floats_by_lanes(w, x.floats[:, : x.n]))
    check(of_few(rows, x), exact_sums.floats_by_lanes(w, x.floats[:, : x.n]))
    check(of_many(rows, x), exact_sums.floats_by_columns(w, x.floats[:, : x.n]))
