from __future__ import annotations

import math

import numpy as np
import pytest

from powerinfer_cli.sampling.candidates import from_logits
from powerinfer_cli.sampling.selection import (
    AdaptiveSelector,
    MirostatSelector,
    adaptive_p,
    mirostat_k,
    mirostat_v2,
)
from tests.sampling.helpers import INF, of


def zipf(exponent: float, n: int) -> np.ndarray:
    return (-exponent * np.log(np.arange(1, n + 1))).astype(np.float32)


@pytest.mark.parametrize(
    ("exponent", "mu", "k"),
    [
        (1.0, 5.0, 6),  # 2**5 / ln 100 = 6.95
        (2.0, 5.0, 5),  # sqrt(2**5 / (1 - 1/100)) = 5.69
        (2.0, 8.0, 16),  # sqrt(2**8 / 0.99) = 16.08
        (2.0, 30.0, 100),  # 32932, of 100
        (2.0, -50.0, 1),
        (0.0, 10.0, 100),  # flat, and 2**10 exceeds 99
        (0.0, 5.0, 1),  # flat, and 2**5 does not
    ],
)
def test_mirostat_1_keeps_by_zipf(exponent: float, mu: float, k: int) -> None:
    assert mirostat_k(from_logits(zipf(exponent, 100)), mu, 100) == k


def test_mirostat_1_without_choice() -> None:
    assert mirostat_k(from_logits(np.array([-INF, 1.0, -INF], np.float32)), 10.0, 3) == 1
    assert mirostat_k(from_logits(np.array([1.0], np.float32)), 10.0, 1) == 1


@pytest.mark.parametrize(("mu", "ids"), [(0.5, [1]), (1.5, [1]), (2.1, [1, 0]), (3.1, [1, 0, 2, 3]), (-5.0, [1])])
def test_mirostat_2_keeps_by_surprise(mu: float, ids: list[int]) -> None:
    # 2, 1, 3 and 3 bits, and one impossible
    assert mirostat_v2(of(0.25, 0.5, 0.125, 0.125, 0.0), mu).ids.tolist() == ids


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_learns_from_the_surprise(version: int) -> None:
    selector = MirostatSelector(version, tau=3.0, eta=0.1, n_vocab=3)
    assert selector.mu == 6.0
    pair = of(2 / 3, 1 / 3)
    selector.chose(pair, pair, 1)
    assert selector.mu == pytest.approx(6.0 - 0.1 * (math.log2(3) - 3.0))  # 6.1415
    selector.chose(of(1.0), of(1.0), 0)
    assert selector.mu == pytest.approx(6.1415037 + 0.3)
    selector.reset()
    assert selector.mu == 6.0


def test_adaptive_p_peaks_at_the_target() -> None:
    # Distances 0.2, 0 and 0.1 in widths of 0.3: 5 - 10 * d * d / (1 + d)
    left = adaptive_p(of(0.5, 0.3, 0.2, 0.0), 0.3)
    assert left.logits.tolist() == pytest.approx([2.333333, 5.0, 4.166667, -INF], abs=1e-5)


def test_adaptive_p_learns_from_accepted_tokens() -> None:
    selector, start = AdaptiveSelector(target=0.3, decay=0.9), of(0.5, 0.3, 0.2)
    assert selector.weighted_sum / selector.total_weight == pytest.approx(0.3)
    selector.chose(start, start, 0)
    selector.accept(0)
    # 0.5 + 0.9 * 3 over 1 + 0.9 * 10
    assert (selector.weighted_sum, selector.total_weight) == pytest.approx((3.2, 10.0))
    expected = adaptive_p(start, 2 * 0.3 - 0.32).logits
    assert selector.narrow(start).logits.tolist() == pytest.approx(expected.tolist())
    selector.chose(start, start, 0)
    selector.accept(1)  # another token entered the text
    assert selector.weighted_sum == pytest.approx(3.2)
    selector.reset()
    assert selector.weighted_sum == pytest.approx(3.0)


def test_adaptive_p_is_off_at_a_negative_target() -> None:
    selector, start = AdaptiveSelector(target=-1.0, decay=0.9), of(0.5, 0.3, 0.2)
    assert selector.narrow(start) is start
    selector.chose(start, start, 0)
    selector.accept(0)
    assert selector.total_weight == pytest.approx(10.0)
