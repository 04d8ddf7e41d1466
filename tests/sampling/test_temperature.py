from __future__ import annotations

import math

import numpy as np
import pytest

from powerinfer_cli.sampling.candidates import from_logits
from powerinfer_cli.sampling.temperature import dynamic_temperature, temperature
from tests.sampling.helpers import INF, of, probs_by_id


def test_temperature_divides() -> None:
    cooled = temperature(from_logits(np.array([1, -2, 4], np.float32)), 0.5)
    assert cooled.logits.tolist() == [2, -4, 8]
    assert probs_by_id(temperature(of(0.1, 0.2, 0.3, 0.4), 1.0)) == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4})


@pytest.mark.parametrize("temp", [0.0, -1.0, 1e-39, 1e-60])
def test_no_temperature_is_greedy(temp: float) -> None:
    assert probs_by_id(temperature(of(0.1, 0.2, 0.4, 0.3), temp)) == {2: 1.0}
    assert temperature(from_logits(np.array([-9, -5, -5, -8], np.float32)), temp).ids.tolist() == [1]


def test_temperature_leaves_ruled_out_tokens_ruled_out() -> None:
    assert temperature(from_logits(np.array([-INF, 1], np.float32)), 2.0).logits.tolist() == [-INF, 0.5]


@pytest.mark.parametrize(("exponent", "temp"), [(1.0, 1.311278), (2.0, 1.158172)])
def test_dynamic_temperature_follows_the_entropy(exponent: float, temp: float) -> None:
    # H(3/4, 1/4) = 0.811278 of its maximum; 0.5 + 1.0 * 0.811278**exponent. The logits are ln 3 apart.
    logits = dynamic_temperature(of(0.25, 0.75), 1.0, 0.5, exponent).logits
    assert logits[0] - logits[1] == pytest.approx(math.log(3) / temp, rel=1e-5)


def test_dynamic_temperature_never_goes_below_zero() -> None:
    # From 0 (not -0.5) to 1.5: 1.5 * 0.811278 = 1.216917
    logits = dynamic_temperature(of(0.25, 0.75), 0.5, 1.0, 1.0).logits
    assert logits[0] - logits[1] == pytest.approx(math.log(3) / 1.216917, rel=1e-5)


def test_dynamic_temperature_off_or_without_choice() -> None:
    assert probs_by_id(dynamic_temperature(of(0.1, 0.2, 0.3, 0.4), 0.0, 0.0, 1.0)) == {3: 1.0}
    assert probs_by_id(dynamic_temperature(of(1.0), 0.0, 0.5, 1.0)) == {0: 1.0}
