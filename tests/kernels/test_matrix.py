"""Products with stored matrices: whole or in chunks, kept in float32 or dequantised on use."""

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import GGMLType, dequantize
from powerinfer_cli.kernels import matrix
from powerinfer_cli.kernels.matrix import Matrix, to_float32
from tests.helpers.kernels.matrices import random_rows, stored, weight_types
from tests.helpers.rounding import Interval

X = torch.from_numpy(np.random.default_rng(9).standard_normal((3, 256)).astype(np.float32))


@pytest.mark.parametrize("kind", weight_types())
def test_product_with_every_type(kind: GGMLType) -> None:
    rows = random_rows(kind, 5, 256)
    plain = dequantize(rows, kind)
    assert 0.01 < np.abs(plain).max() < 10
    kept, used = (Matrix(stored(rows, kind), resident=resident) for resident in (True, False))
    Interval.of(X).matmul(plain).check(kept.matmul(X))
    assert torch.equal(kept.matmul(X), used.matmul(X))


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.Q8_0, GGMLType.Q4_K])
@pytest.mark.parametrize("resident", [True, False])
def test_chosen_rows(kind: GGMLType, resident: bool) -> None:
    rows = random_rows(kind, 9, 256)
    chosen = Matrix(stored(rows, kind), resident=resident).rows(torch.tensor([7, 0, 7]))
    assert np.array_equal(chosen.numpy(), dequantize(rows, kind)[[7, 0, 7]])
    assert Matrix(stored(rows, kind), resident=resident).rows(torch.empty(0, dtype=torch.int64)).shape == (0, 256)


@pytest.mark.parametrize("n_rows", [1, 4, 11])
@pytest.mark.parametrize("elements", [1, 256, 3 * 256, 1000])
@pytest.mark.parametrize("resident", [True, False])
def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch, n_rows: int, elements: int, resident: bool) -> None:
    tensor = stored(random_rows(GGMLType.Q4_0, n_rows, 256), GGMLType.Q4_0)
    whole = Interval.of(X).matmul(tensor.to_float32())
    whole.check(Matrix(tensor, resident=resident).matmul(X))
    monkeypatch.setattr(matrix, "CHUNK_ELEMENTS", elements)
    product = Matrix(tensor, resident=resident).matmul(X)
    assert product.shape == (3, n_rows)
    whole.check(product)


def test_float32_is_a_view_of_the_file() -> None:
    tensor = stored(np.ones((2, 3)))
    assert to_float32(tensor).data_ptr() == tensor.data.ctypes.data
    quantised = to_float32(stored(np.ones((2, 32)), GGMLType.Q8_0))
    torch.testing.assert_close(quantised, torch.ones(2, 32), rtol=0, atol=1e-3)
