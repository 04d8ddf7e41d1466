"""The verdict: what a model can gain, before any long work."""

from solver.verdict.judging import (
    MEASURING,
    READING,
    Judging,
    expected_rates,
    expected_seconds,
    judge,
    recorded_verdict,
)
from solver.verdict.seen import Seen, look_at_predictors
from solver.verdict.speed import MachineCosts, slowed
from solver.verdict.verdict import LEAST_GAIN, Kind, Verdict, WorkRates, kind_of

__all__ = [
    "LEAST_GAIN",
    "MEASURING",
    "READING",
    "Judging",
    "Kind",
    "MachineCosts",
    "Seen",
    "Verdict",
    "WorkRates",
    "expected_rates",
    "expected_seconds",
    "judge",
    "kind_of",
    "look_at_predictors",
    "recorded_verdict",
    "slowed",
]
