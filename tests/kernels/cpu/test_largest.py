"""The largest of rows, against the plain twin."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels.cpu.largest import keep_largest, least_of_largest
from powerinfer_cli.kernels.reference import largest


def rows(n_rows: int, n: int, stride: int) -> np.ndarray:
    """Some numbers alike, some 0; behind each row, what is nobody's."""
    rng = np.random.default_rng(n)
    whole = np.full((n_rows, stride), np.nan, np.float32)
    whole[:, :n] = rng.standard_normal((n_rows, n)).round(1) * rng.integers(0, 2, (n_rows, n))
    return whole[:, :n]


@pytest.mark.parametrize(("n_rows", "n", "stride"), [(1, 1, 1), (3, 37, 40), (5, 600, 600)])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 1.0])
def test_against_the_twin(n_rows: int, n: int, stride: int, share: float) -> None:
    values, count = rows(n_rows, n, stride), max(1, int(share * n))
    mask = largest(torch.from_numpy(values.copy()), count).numpy()
    least = least_of_largest(values, count)
    np.testing.assert_array_equal(np.abs(values) >= least[:, None], mask)
    wanted = np.where(mask, values, 0)
    keep_largest(values, count)
    np.testing.assert_array_equal(values, wanted)
    if stride > n:
        assert np.isnan(values.base[:, n:]).all()


def test_numbers_that_are_none_and_of_any_size() -> None:
    values = np.array([[-0.0, 1e-44, -1e38, 2.0], [np.inf, 1.0, np.nan, -3.0]], np.float32)
    assert least_of_largest(values, 1)[0] == np.float32(1e38)
    assert least_of_largest(values, 3)[0] == np.float32(1e-44), "too small to have all its digits"
    assert np.isnan(least_of_largest(values, 1)[1])
    assert least_of_largest(values, 3)[1] == 3
    assert least_of_largest(values.astype(np.float64), 2).tolist() == [2.0, np.inf]


def test_what_cannot_be() -> None:
    values = np.ones((2, 4), np.float32)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"the {count} largest of 4"):
            least_of_largest(values, count)
    with pytest.raises(ValueError, match="side by side"):
        keep_largest(values.T, 1)
