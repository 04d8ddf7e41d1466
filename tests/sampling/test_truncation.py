from __future__ import annotations

import numpy as np
import pytest

from powerinfer_cli.sampling.candidates import Candidates, from_logits, largest, softmax
from powerinfer_cli.sampling.truncation import (
    exclude_top_choices,
    min_p,
    tail_free,
    top_k,
    top_n_sigma,
    top_p,
    typical,
)
from tests.sampling.helpers import INF, of, probs_by_id

RISING = of(0.1, 0.2, 0.3, 0.4)
FALLING = of(0.4, 0.3, 0.2, 0.1)


@pytest.mark.parametrize(
    ("k", "ids", "probs"),
    [
        (1, [3], [1.0]),
        (3, [3, 2, 1], [4 / 9, 3 / 9, 2 / 9]),
        (4, [3, 2, 1, 0], [0.4, 0.3, 0.2, 0.1]),
        (99, [3, 2, 1, 0], [0.4, 0.3, 0.2, 0.1]),
        (0, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]),
        (-1, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_top_k(k: int, ids: list[int], probs: list[float]) -> None:
    left = top_k(RISING, k)
    assert left.ids.tolist() == ids
    assert softmax(left) == pytest.approx(probs, abs=1e-6)


def test_equal_logits_go_by_the_lower_id() -> None:
    level = from_logits(np.array([1, 5, 5, 0, 5, 5], np.float32))
    assert top_k(level, 2).ids.tolist() == [1, 2]
    assert top_k(level, 5).ids.tolist() == [1, 2, 4, 5, 0]
    mixed = Candidates(np.array([9, 3, 7, 1]), np.array([5, 5, 5, 5], np.float32))
    assert top_k(mixed, 2).ids.tolist() == [1, 3]
    assert largest(mixed, 4).ids.tolist() == [1, 3, 7, 9]


@pytest.mark.parametrize(
    ("p", "min_keep", "ids", "probs"),
    [
        (0.0, 0, [3], [1.0]),
        (0.7, 0, [3, 2], [4 / 7, 3 / 7]),
        (0.8, 0, [3, 2, 1], [4 / 9, 3 / 9, 2 / 9]),
        (1.0, 0, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]),
        (0.3, 3, [3, 2, 1], [4 / 9, 3 / 9, 2 / 9]),
        (0.3, 9, [3, 2, 1, 0], [0.4, 0.3, 0.2, 0.1]),
    ],
)
def test_top_p(p: float, min_keep: int, ids: list[int], probs: list[float]) -> None:
    left = top_p(RISING, p, min_keep)
    assert left.ids.tolist() == ids
    assert softmax(left) == pytest.approx(probs, abs=1e-6)


def test_top_p_over_a_flat_vocabulary_passes_its_first_guess() -> None:
    # 2000 tokens of 1/2000 each: 0.5 is reached by the first 1000, give or take the rounding of 1/2000.
    left = top_p(from_logits(np.zeros(2000, np.float32)), 0.49999)
    assert left.ids.tolist() == list(range(1000))


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.00, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}),
        (0.24, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}),
        (0.26, {1: 2 / 9, 2: 3 / 9, 3: 4 / 9}),
        (0.49, {1: 2 / 9, 2: 3 / 9, 3: 4 / 9}),
        (0.51, {2: 3 / 7, 3: 4 / 7}),
        (0.74, {2: 3 / 7, 3: 4 / 7}),
        (0.76, {3: 1.0}),
        (1.00, {3: 1.0}),
        (1.05, {3: 1.0}),
        (-1.0, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}),
    ],
)
@pytest.mark.parametrize("ordered", [False, True])
def test_min_p(p: float, expected: dict[int, float], ordered: bool) -> None:
    start = largest(RISING, 4) if ordered else RISING
    assert probs_by_id(min_p(start, p)) == pytest.approx(expected, abs=1e-6)


def test_min_p_keeps_min_keep() -> None:
    assert min_p(RISING, 0.76, 3).ids.tolist() == [3, 2, 1]
    assert min_p(RISING, 0.76, 99).ids.tolist() == [3, 2, 1, 0]
    assert min_p(RISING, 0.26, 2).ids.tolist() == [1, 2, 3]  # three pass anyway


def test_typical() -> None:
    # H(0.97, 3 * 0.01) = 0.168 nats: token 0 (0.030) is nearest, and alone exceeds 0.5.
    assert typical(of(0.97, 0.01, 0.01, 0.01), 0.5).ids.tolist() == [0]
    # H(0.4, 3 * 0.2) = 1.332: surprise 1.609 is nearer than 0.916; two of them make 0.4, three 0.6.
    assert typical(of(0.4, 0.2, 0.2, 0.2), 0.5).ids.tolist() == [1, 2, 3]
    assert typical(of(0.97, 0.01, 0.01, 0.01), 0.5, min_keep=3).size == 3
    assert typical(FALLING, 1.0) is FALLING


def test_typical_never_keeps_what_is_ruled_out() -> None:
    left = typical(of(0.5, 0.0, 0.5, 0.0), 0.9, min_keep=4)
    assert sorted(left.ids.tolist()) == [0, 2]


@pytest.mark.parametrize(
    ("z", "min_keep", "ids"),
    [
        (0.25, 0, [4]),
        (0.75, 0, [4, 3]),
        (0.99, 0, [4, 3]),
        (1.0, 0, [0, 1, 2, 3, 4]),
        (0.25, 2, [4, 3]),
        (0.25, 3, [4, 3, 2, 1, 0]),
    ],
)
def test_tail_free_on_a_straight_line(z: float, min_keep: int, ids: list[int]) -> None:
    # No curvature anywhere, so each of the three second differences counts a third: 1/3, 2/3, 1.
    assert tail_free(of(0.1, 0.15, 0.2, 0.25, 0.3), z, min_keep).ids.tolist() == ids


def test_tail_free_on_a_curve() -> None:
    # Falls 0.2, 0.2, 0.04, 0.02; curvature 0, 0.16, 0.02, that is 0, 0.889, 0.111 of the whole; sums 0, 0.889, 1.
    curve = of(0.5, 0.3, 0.1, 0.06, 0.04)
    assert tail_free(curve, 0.5).ids.tolist() == [0]
    assert tail_free(curve, 0.95).ids.tolist() == [0, 1]
    assert tail_free(of(0.6, 0.4), 0.1).size == 2


def test_top_n_sigma() -> None:
    assert probs_by_id(top_n_sigma(RISING, 1.0)) == pytest.approx({0: 0.0, 1: 0.0, 2: 3 / 7, 3: 4 / 7}, abs=1e-6)
    assert probs_by_id(top_n_sigma(RISING, 3.0)) == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}, abs=1e-6)
    assert top_n_sigma(RISING, 0.0) is RISING
    # Mean 3, sigma sqrt(5) = 2.236: one sigma under 6 is 3.76, two are 1.53.
    steps = from_logits(np.array([0, 2, 4, 6], np.float32))
    assert top_n_sigma(steps, 1.0).logits.tolist() == [-INF, -INF, 4, 6]
    assert top_n_sigma(steps, 2.0).logits.tolist() == [-INF, 2, 4, 6]


def test_top_n_sigma_measures_possible_tokens_only() -> None:
    # Of 0 and 4: mean 2, sigma 2, so 1.5 sigma under 4 is 1.
    masked = from_logits(np.array([-INF, 0, 4], np.float32))
    assert top_n_sigma(masked, 1.5).logits.tolist() == [-INF, -INF, 4]


@pytest.mark.parametrize(
    ("threshold", "min_keep", "ids"),
    [
        (0.09, 0, [3]),
        (0.19, 0, [2, 3]),
        (0.29, 0, [1, 2, 3]),
        (0.39, 0, [0, 1, 2, 3]),
        (0.45, 0, [0, 1, 2, 3]),
        (0.51, 0, [0, 1, 2, 3]),
        (0.19, 2, [2, 3]),
        (0.19, 3, [0, 1, 2, 3]),
    ],
)
def test_xtc_leaves_the_least_likely_of_the_top(threshold: float, min_keep: int, ids: list[int]) -> None:
    assert exclude_top_choices(FALLING, threshold, min_keep).ids.tolist() == ids


def test_xtc_at_threshold_zero_leaves_a_possible_token() -> None:
    assert probs_by_id(exclude_top_choices(of(0.6, 0.4, 0.0), 0.0)) == {1: 1.0, 2: 0.0}
