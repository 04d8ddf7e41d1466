"""Rows of the embedding matrix, of every format, against the file's numbers."""

import numpy as np
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, dequantize
from powerinfer_cli.kernels.cpu.embedding import embed
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.vectors import aligned
from powerinfer_cli.kernels.formats import FORMATS, SLACK
from powerinfer_cli.kernels.jit.program import Operation
from tests.helpers.kernels.kernel_data import bundled_rows
from tests.helpers.kernels.kernel_runs import on_any_team, poisoned_vectors, run, state_of
from tests.helpers.kernels.matrices import random_rows


def matrix(kind: GGMLType, rows: int, columns: int, seed: int = 0) -> tuple[WeightRows, np.ndarray]:
    """Random weights as the file has them (rearranged on use where the format is), and in float32."""
    data = random_rows(kind, rows, columns, seed)
    f, stride = FORMATS[kind], data.shape[1]
    room = aligned(data.size + SLACK)
    room[: data.size] = data.reshape(-1)
    scratch = aligned(3 * (f.row_bytes(columns) + SLACK)).reshape(3, -1) if f.repack else None
    return WeightRows(f, rows, columns, room, stride, scratch), dequantize(data, kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("columns", [256, 768, 1280])
def test_embed(kind: GGMLType, columns: int) -> None:
    rows, numbers = matrix(kind, 9, columns)
    ids = np.array([8, 0, 3, 3, 7], np.int32)
    out = poisoned_vectors(5, columns, records=False)

    def make() -> tuple[Operation, list[np.ndarray]]:
        out.floats[:] = np.nan
        return embed(state_of(5), rows, ids, out), [out.floats]

    on_any_team(make)
    np.testing.assert_allclose(out.floats[:, :columns], numbers[ids], rtol=1e-6, atol=1e-7)
    assert not out.floats[:, columns:].any()


@pytest.mark.rungs
@pytest.mark.parametrize("kind", [kind for kind, found in FORMATS.items() if found.whole])
@pytest.mark.parametrize("wide", [False, True])
def test_rows_of_bundles(kind: GGMLType, wide: bool) -> None:
    columns = 1280 if wide else max(96, BLOCK[kind][0])
    rows, numbers = bundled_rows(kind, 37, columns, kind_of_bundles=Bundled.WHOLE)
    ids = np.array([0, 36, 15, 16, 20], np.int32)
    out = poisoned_vectors(5, columns, records=False)
    run(embed(state_of(5), rows, ids, out), threads=2)
    np.testing.assert_allclose(out.floats[:, :columns], numbers[ids], rtol=1e-6, atol=1e-7)
    assert not out.floats[:, columns:].any()


@pytest.mark.rungs
@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.Q4_1])
def test_learned_positions(kind: GGMLType) -> None:
    columns = 96
    rows, numbers = matrix(GGMLType.Q8_0, 9, columns)
    places, learned = matrix(kind, 20, columns, seed=1)
    ids = np.array([8, 0, 3], np.int32)
    out = poisoned_vectors(4, columns, records=False)
    run(embed(state_of(3, n_past=11), rows, ids, out, places, 2, scale=2.5), threads=2)
    wanted = np.float32(2.5) * numbers[ids] + learned[13:16]
    np.testing.assert_allclose(out.floats[:3, :columns], wanted, rtol=1e-6, atol=1e-7)
    assert np.isnan(out.floats[3]).all()


@pytest.mark.rungs
@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.BF16])
def test_odd_widths(kind: GGMLType) -> None:
    rows, numbers = matrix(kind, 5, 75)
    out = poisoned_vectors(2, 75, records=False)
    run(embed(state_of(2), rows, np.array([4, 1], np.int32), out))
    np.testing.assert_array_equal(out.floats[:, :75], numbers[[4, 1]])
    assert not out.floats[:, 75:].any()
