"""What kernels know by number has a number for each member of its closed set."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, EXACT
from powerinfer_cli.kernels.norm_codes import NO_NORM, NORM_CODES
from powerinfer_cli.kernels.reference import activate
from powerinfer_cli.model import Activation, NormKind, RopeStyle
from tests.helpers.rounding import curve_of


def test_every_activation_has_a_code() -> None:
    assert set(ACTIVATION_CODES) == set(Activation)
    assert sorted(ACTIVATION_CODES.values()) == list(range(len(Activation)))
    for kind, code in ACTIVATION_CODES.items():
        assert (code < EXACT) == kind.has_exact_zeros
        zeros = bool((activate(torch.linspace(-3, -0.1, 50), kind, curve_of(kind)) == 0).all())
        assert zeros == kind.has_exact_zeros


def test_every_norm_has_a_code() -> None:
    assert set(NORM_CODES) == set(NormKind)
    assert len({NO_NORM, *NORM_CODES.values()}) == len(NormKind) + 1
    assert [kind.is_centred for kind in (NormKind.RMS, NormKind.LAYER)] == [False, True]


@pytest.mark.parametrize(("style", "pairs"), [(RopeStyle.INTERLEAVED, [0, 2, 4]), (RopeStyle.NEOX, [0, 1, 2])])
def test_steps_of_pairs(style: RopeStyle, pairs: list[int]) -> None:
    apart, step = style.steps(6)
    first = np.arange(3) * step
    assert first.tolist() == pairs
    assert sorted([*first, *(first + apart)]) == list(range(6))
