"""How long the stages behind a verdict take, by what was measured while it was found."""

import pytest

from solver.duration import seconds_to_come
from solver.predictor import MAKING
from solver.predictor.ranks import TrainingWork
from solver.verdict import WorkRates


@pytest.mark.parametrize(
    ("n_embd", "n_ff", "tried", "took", "more", "takes"),
    [  # processor seconds of `train_at_best_rank` on one thread of a Zen 5
        (2048, 5632, 512, 1.46, 2048, 1.72),
        (2048, 5632, 2048, 1.72, 16384, 4.38),
        (4096, 11008, 512, 7.73, 8192, 13.83),
    ],
)
def test_training_is_foretold_from_a_trial_on_fewer_tokens(
    n_embd: int, n_ff: int, tried: int, took: float, more: int, takes: float
) -> None:
    fixed = TrainingWork.of(n_embd, n_ff, exact=True).fixed
    rates = WorkRates(0.0, took, tried, 10, graded=False, fixed=fixed)
    assert rates.training_on(tried) == pytest.approx(10 * took)
    assert seconds_to_come(rates, more + 500, 500, 0.0)[MAKING] == pytest.approx(10 * takes, rel=0.15)


def test_labels_are_regressed_token_by_token() -> None:
    known, regressed = (TrainingWork.of(512, 1536, exact=exact) for exact in (True, False))
    assert regressed.token > known.token
    assert regressed.once > known.once
    assert known.of_tokens(7) == known.once + 7 * known.token
