"""Bundled rows times tokens, against float64 sums over what the rows hold."""

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.packing import bundles
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK, NEVER, Predictor, ask_batch, asked_neurons
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.jit.program import assemble
from tests.helpers.kernels.kernel_data import bundled_rows, random_vectors, values_for, weight_rows
from tests.helpers.kernels.sparse_layers import BUNDLED
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs
TEAM = team_of(3)


def logits(rows: WeightRows, hidden: Vectors, tokens: int, threads: int = 2) -> npt.NDArray[np.float32]:
    stride = -(-rows.n_rows // 16) * 16
    out = np.full((tokens + 1, stride), np.nan, np.float32)
    state = np.array([tokens, 0], np.int64)
    TEAM.run(assemble([ask_batch(state, hidden, rows, out, stride)]).table, threads)
    assert np.isnan(out[tokens]).all()
    assert not out[:tokens, rows.n_rows :].any()
    return out[:tokens, : rows.n_rows]


@pytest.mark.parametrize("kind", BUNDLED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("n", "rank", "tokens"), [(1, 32, 1), (37, 96, 3), (150, 512, 9), (16, 2080, 2)])
def test_products(kind: GGMLType, n: int, rank: int, tokens: int) -> None:
    rows, values = bundled_rows(kind, n, rank)
    hidden = random_vectors(tokens, rank)
    x = values_for(kind, hidden)
    size = np.abs(x) @ np.abs(values).T
    found = logits(rows, hidden, tokens)
    assert (np.abs(found - x @ values.T) <= 1e-6 * size).all()
    assert np.array_equal(logits(rows, hidden, tokens, 1), found)


def test_rows_here_and_there() -> None:
    kind, numbers = (
        GGMLType.Q8_0,
        np.array([3, 4, 19, 20, 21, 22, 30, 31, 40, 41, 42, 43, 50, 51, 52, 60, 99], np.int32),
    )
    some, _ = bundled_rows(kind, 100, 96, numbers=numbers)
    every, _ = bundled_rows(kind, 100, 96)
    hidden = random_vectors(4, 96)
    assert np.array_equal(logits(some, hidden, 4), logits(every, hidden, 4)[:, numbers])


def test_bundles_have_no_room_between_rows() -> None:
    rows, _ = bundled_rows(GGMLType.Q8_0, 64, 96)
    assert rows.stride == 96 + 3 * 2
    assert weight_rows(GGMLType.Q8_0, 64, 96)[0].stride > 5 * rows.stride


def test_types_that_are_bundled() -> None:
    asked = {kind for kind in FORMATS if bundles(kind, Bundled.ASKED)}
    assert asked == set(BUNDLED) >= {GGMLType.Q8_0, GGMLType.Q4_0}
    assert not any(bundles(kind, purpose, repack=False) for kind in BUNDLED for purpose in Bundled)


def test_who_is_asked() -> None:
    modes = np.array([NEVER, ASK, ALWAYS, NEVER, ASK], np.uint8)
    assert asked_neurons(modes).tolist() == [1, 2, 4]
    assert asked_neurons(np.zeros(3, np.uint8)).tolist() == [0]
    made = Predictor.of(bundled_rows(GGMLType.Q8_0, 3, 32)[0], modes, 0.5)
    assert made.thresholds[:4].tolist() == [0.5, -np.inf, 0.5, np.inf]
    assert made.thresholds_of(5)[:6].tolist() == [np.inf, 0.5, -np.inf, np.inf, 0.5, np.inf]
