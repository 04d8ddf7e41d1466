"""What a step of several texts takes: weights are read once for all of them, and computed with for each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from solver.placing.costs import Activity
from solver.placing.device_profile import DeviceProfile, Processor, Rates
from solver.placing.simulation import Work

__all__ = ["CPU_GROWTH", "GPU_GROWTH", "Growth", "profile_for", "work_for"]


@dataclass(frozen=True)
class Growth:
    """How many times as long a product with some columns takes as with one, at these numbers of columns, from 1 on.
    Between them straight lines; beyond, in proportion to the columns.
    """

    points: Mapping[int, float]

    def at(self, columns: float) -> float:
        """For a mean number of columns."""
        numbers, factors = list(self.points), list(self.points.values())
        if columns > numbers[-1]:
            return factors[-1] * columns / numbers[-1]
        return float(np.interp(columns, numbers, factors))


CPU_GROWTH = Growth({1: 1.0, 4: 1.0, 8: 1.6, 16: 2.9})
"""Measured: the dense 1.1B in Q4_0, one thread of a Zen 5 (scripts/bench/NOTES.md)."""

GPU_GROWTH = Growth({1: 1.0, 16: 1.0})
"""Assumed: a GPU computes some 16 times as fast as it reads."""


def work_for(work: Work, n_texts: int) -> Work:
    """A step of n texts that have nothing to do with each other: a neuron, or an expert, is read if any of them needs
    it.
    """
    if n_texts == 1:
        return work
    union = tuple(1.0 - (1.0 - one) ** n_texts for one in work.activity.frequencies)
    return replace(work, activity=Activity(union, dense=work.activity.dense))


def profile_for(profile: DeviceProfile, work: Work, n_texts: int) -> DeviceProfile:
    """A machine's costs of such a step. work: of one text. Each text has its own cache, and its own x to hand over."""
    if n_texts == 1:
        return profile
    one = sum(float(each.sum()) for each in work.activity.frequencies)
    union = sum(float(each.sum()) for each in work_for(work, n_texts).activity.frequencies)
    columns = n_texts * one / union if union else float(n_texts)
    return replace(
        profile,
        cpu=_slower(profile.cpu, CPU_GROWTH, n_texts, columns),
        gpus=tuple(_slower(gpu, GPU_GROWTH, n_texts, columns) for gpu in profile.gpus),
        link=replace(profile.link, bandwidth=profile.link.bandwidth / n_texts),
    )


def _slower(processor: Processor, growth: Growth, n_texts: int, columns: float) -> Processor:
    """columns: texts that need the same row of neurons or experts, on the mean."""
    whole, rows = growth.at(n_texts), growth.at(columns)

    def rates(one: Rates) -> Rates:
        return Rates(one.dense / whole, one.scattered / rows, one.chosen / rows)

    found = {kind: rates(one) for kind, one in processor.rates.items()}
    return replace(processor, rates=found, cache=processor.cache / n_texts)
