"""Numbers kept within bounds, against NumPy."""

import numpy as np
import pytest

from powerinfer_cli.kernels.cpu.clamp import clamp
from tests.helpers.kernels.kernel_runs import on_any_team, rows_of, state_of


@pytest.mark.rungs
@pytest.mark.parametrize(("n_token", "n"), [(1, 7), (3, 600), (5, 64)])
@pytest.mark.parametrize("limit", [0.8, 1e-3, 100.0])
def test_clamp(n_token: int, n: int, limit: float) -> None:
    """A token that is not of the batch stays as it is."""
    x = np.random.default_rng(1).standard_normal((n_token + 1, n)).astype(np.float32)

    def make():
        rows = rows_of(x)
        return clamp(state_of(n_token), rows, limit), [rows]

    (found,) = on_any_team(make)
    np.testing.assert_array_equal(found[:-1, :n], x[:-1].clip(-np.float32(limit), np.float32(limit)))
    np.testing.assert_array_equal(found[-1, :n], x[-1])
