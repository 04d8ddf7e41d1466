from __future__ import annotations

import numpy as np
import pytest

from powerinfer_cli.sampling.candidates import Candidates, from_logits
from powerinfer_cli.sampling.penalties import bias, penalties
from tests.sampling.helpers import INF, of, probs_by_id

FIVE = of(0.2, 0.2, 0.2, 0.2, 0.2)


@pytest.mark.parametrize(
    ("recent", "repeat", "frequency", "presence", "expected"),
    [
        ([0], 50.0, 0.0, 0.0, [0, 0.25, 0.25, 0.25, 0.25]),
        ([0, 1, 2], 50.0, 0.0, 0.0, [0, 0, 0, 0.5, 0.5]),
        ([0, 1, 2, 0, 0], 50.0, 0.0, 0.0, [0, 0, 0, 0.5, 0.5]),
        ([0], 1.0, 5.0, 5.0, [0.000011, 0.249997, 0.249997, 0.249997, 0.249997]),
        ([0, 1, 2], 1.0, 5.0, 5.0, [0.000023, 0.000023, 0.000023, 0.499966, 0.499966]),
        ([0, 1, 2, 0, 0], 1.0, 5.0, 5.0, [0.000000, 0.000023, 0.000023, 0.499977, 0.499977]),
    ],
)
def test_published_vectors(
    recent: list[int], repeat: float, frequency: float, presence: float, expected: list[float]
) -> None:
    left = penalties(FIVE, np.array(recent), repeat, frequency, presence)
    assert probs_by_id(left) == pytest.approx(dict(enumerate(expected)), abs=1e-6)


def test_all_three_at_once() -> None:
    start = from_logits(np.array([2, -1, 3], np.float32))
    left = penalties(start, np.array([0, 0, 1]), 2.0, 0.5, 0.25)
    # 2 / 2 - (2 * 0.5 + 0.25); -1 * 2 - (0.5 + 0.25); not seen
    assert left.logits.tolist() == [-0.25, -2.75, 3]
    assert start.logits.tolist() == [2, -1, 3]


def test_penalties_find_their_tokens_among_shuffled_candidates() -> None:
    start = Candidates(np.array([7, 2, 5]), np.array([3, 2, 1], np.float32), sorted=True)
    left = penalties(start, np.array([5, 2, 2, 6, 0]), 1.0, 1.0, 0.0)
    assert (left.ids.tolist(), left.logits.tolist(), left.sorted) == ([7, 2, 5], [3, 0, 0], False)


def test_penalties_off() -> None:
    assert penalties(FIVE, np.array([0, 1]), 1.0, 0.0, 0.0) is FIVE
    assert penalties(FIVE, np.array([], np.intp), 9.0, 9.0, 9.0) is FIVE


def test_bias_adds() -> None:
    start = from_logits(np.array([1, 2, 3], np.float32))
    left = bias(start, np.array([0, 2]), np.array([4.5, -INF], np.float32))
    assert left.logits.tolist() == [5.5, 2, -INF]
    assert bias(start, np.array([], np.intp), np.array([], np.float32)) is start
