"""What layers get beside the residual stream, against its formulas in torch."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels import reference
from powerinfer_cli.kernels.cpu.layer_inputs import add_group_norms, gate_inputs
from powerinfer_cli.model import Activation
from tests.helpers.kernels.kernel_runs import on_any_team, poisoned_vectors, quants_of, rows_of, state_of, vectors_of

pytestmark = pytest.mark.rungs

SIZES = [(1, 3, 7), (3, 4, 16), (5, 2, 300), (2, 32, 16)]  # tokens, groups, numbers of a group


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("n_token", "groups", "width"), SIZES)
def test_group_norms_are_added(n_token: int, groups: int, width: int) -> None:
    """A token that is not of the batch stays as it is."""
    x, before, weight = normal(n_token + 1, groups * width), normal(n_token + 1, groups * width, seed=1), normal(width)

    def make():
        made, out = vectors_of(x, records=False), vectors_of(before, records=False)
        made.floats[:, groups * width :] = np.nan
        return add_group_norms(state_of(n_token), made, out, weight, 0.1), [out.floats]

    (found,) = on_any_team(make)
    grouped = torch.from_numpy(x).view(n_token + 1, groups, width)
    wanted = before + reference.rms_norm(grouped, torch.from_numpy(weight), 0.1).flatten(1).numpy()
    np.testing.assert_allclose(found[:n_token, : groups * width], wanted[:n_token], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[n_token, : groups * width], before[n_token])
    assert not found[:, groups * width :].any()


@pytest.mark.parametrize("activation", [Activation.GELU_TANH, Activation.SILU, Activation.RELU])
@pytest.mark.parametrize(("n_token", "groups", "width"), SIZES)
def test_a_gate_lets_inputs_through(activation: Activation, n_token: int, groups: int, width: int) -> None:
    """Those of the last layer, with records of what comes of it."""
    gate, every, gain = normal(n_token, width), normal(n_token, groups * width, seed=1), 1.7
    begin = (groups - 1) * width

    def make():
        gates, inputs = rows_of(gate, np.nan), vectors_of(every, records=False)
        out = poisoned_vectors(n_token, width)
        out.floats[:, width:] = 0
        return gate_inputs(state_of(n_token), gates, inputs, begin, out, activation, gain), [out.floats, out.records]

    floats, records = on_any_team(make)
    opened = reference.activate(gain * torch.from_numpy(gate), activation).numpy()
    wanted = opened * every[:, begin:]
    np.testing.assert_allclose(floats[:, :width], wanted, rtol=2e-5, atol=1e-6)
    made = vectors_of(floats[:, :width])
    made.records[:] = records
    quants, scales, *_ = quants_of(made)
    rounded = quants * scales.repeat(32, 1)
    assert (np.abs(rounded[:, :width] - floats[:, :width]) <= 0.51 * scales.repeat(32, 1)[:, :width]).all()
