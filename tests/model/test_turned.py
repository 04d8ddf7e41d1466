"""What a down matrix becomes when it is turned, and what that loses."""

import numpy as np
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor
from powerinfer_cli.gguf_io.encoders import BY_GRID
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.model.turned import FLOATS, Width, down_bytes, down_loss, down_type
from tests.helpers.kernels.matrices import random_rows, weight_types

T = GGMLType


@pytest.mark.parametrize(
    ("kind", "n_embd", "wanted", "becomes"),
    [
        (T.Q4_0, 4096, Width.AUTO, T.Q6_K),
        (T.Q4_1, 576, Width.AUTO, T.Q8_0),
        (T.Q4_0, 1024, Width.AUTO, T.Q8_0),
        (T.Q4_K, 2080, Width.AUTO, T.Q8_0),
        (T.Q6_K, 4096, Width.AUTO, T.Q6_K),
        (T.Q8_0, 4096, Width.AUTO, T.Q8_0),
        (T.IQ2_XXS, 4096, Width.AUTO, T.Q6_K),
        (T.MXFP4, 36, Width.AUTO, T.F16),
        (T.F16, 4096, Width.AUTO, T.F16),
        (T.BF16, 36, Width.SAME, T.BF16),
        (T.F64, 64, Width.AUTO, T.F32),
        (T.Q4_1, 576, Width.SAME, T.Q4_1),
        (T.Q4_K, 4096, Width.SAME, T.Q4_K),
        (T.Q4_K, 640, Width.SAME, T.Q5_0),
        (T.Q5_K, 640, Width.SAME, T.Q5_1),
        (T.Q6_K, 640, Width.SAME, T.Q8_0),
        (T.IQ3_S, 640, Width.SAME, T.Q8_0),
        (T.F16, 4096, T.Q5_K, T.Q5_K),
        (T.Q4_0, 640, T.Q5_K, T.Q5_1),
        (T.Q4_0, 4096, T.F16, T.F16),
    ],
)
def test_types(kind: GGMLType, n_embd: int, wanted: Width | GGMLType, becomes: GGMLType) -> None:
    assert down_type(kind, n_embd, wanted) is becomes
    size, n_bytes = BLOCK[becomes]
    assert down_bytes(kind, n_embd, wanted) == n_embd * n_bytes / size


@pytest.mark.parametrize("kind", weight_types(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("n_embd", [36, 64, 512])
def test_every_type_has_kernels_and_loses_little(kind: GGMLType, n_embd: int) -> None:
    n_ff = 512
    down = Tensor("down", kind, (n_embd, n_ff), random_rows(kind, n_embd, n_ff).view(np.uint8).reshape(-1))
    for width in Width:
        found = down_type(kind, n_embd, width)
        assert found in FORMATS
        assert found in FLOATS or found in BY_GRID
    loss = down_loss(down)
    assert loss == 0 if kind in FLOATS else loss < 0.05  # random blocks are of very different sizes


def test_a_loss_is_that_of_the_whole_matrix() -> None:
    """Of a few neurons, in any type of the file, found by any fit."""
    n_embd, n_ff = 256, 4096
    down = Tensor("down", T.F32, (n_embd, n_ff), random_rows(T.F32, n_embd, n_ff).view(np.uint8).reshape(-1))
    losses = {wanted: down_loss(down, wanted, CompiledFit()) for wanted in (T.Q4_0, T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_0)}
    assert list(losses.values()) == sorted(losses.values(), reverse=True)
    assert losses[T.Q4_0] == pytest.approx(0.083, rel=0.1)
    assert losses[T.Q6_K] == pytest.approx(0.017, rel=0.1)
    assert down_loss(down, T.Q6_K) == pytest.approx(losses[T.Q6_K], rel=0.02)
    zeros = Tensor("down", T.F32, (32, 64), np.zeros(32 * 64 * 4, np.uint8))
    assert down_loss(zeros, T.Q8_0) == 0
