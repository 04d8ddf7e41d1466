"""Tokens a second that a plan is expected to decode, now and with predictors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerinfer_cli.placement import ActivationStatistics, ModelBytes, RowReading
from solver.placing import DeviceProfile, PlanSettings, Prediction, Rates, make_plan
from solver.predictor import ReadingSpeed
from solver.verdict.estimate import LayerBytes, LayerEstimate
from solver.verdict.look import Look

__all__ = ["MachineCosts", "predict_dense", "predict_sparse", "rows_slowness", "slowed"]

FARTHEST = 4.0  # of rows' costs from what was measured, which is a small difference of large times


@dataclass(frozen=True)
class MachineCosts:
    """What a model is planned by. sizes: of the dense one. here: whether the costs are this machine's, measured now.

    others: how many cores other programs kept busy meanwhile, None where nobody knows.
    """

    profile: DeviceProfile
    sizes: ModelBytes
    budgets: tuple[int, ...]
    settings: PlanSettings
    here: bool
    others: float | None = None

    @property
    def speed(self) -> ReadingSpeed | None:
        """Of this machine's CPU, where it is alone; None: nobody knows."""
        if not self.here or self.budgets:
            return None
        rates = self.profile.cpu.rates_for(self.settings.kind)
        return ReadingSpeed(rates.dense, rates.scattered, self.profile.cpu.ffn)


def slowed(profile: DeviceProfile, factor: float, rows: float = 1.0) -> DeviceProfile:
    """Costs with which all that the CPU does takes so many times as long: as a whole model took, for its parts. rows:
    how many times as long again sparse FFNs take.
    """
    cpu, sparse = profile.cpu, factor * rows
    rates = {name: Rates(one.dense / factor, one.scattered / sparse) for name, one in cpu.rates.items()}
    slower = replace(cpu, rates=rates, cache=cpu.cache / factor, layer=cpu.layer * factor, ffn=cpu.ffn * sparse)
    return replace(profile, cpu=replace(slower, token=cpu.token * factor))


def rows_slowness(found: Prediction, layers: Sequence[LayerEstimate], factor: float, seconds: float) -> float:
    """How many times as long as predicted sparse FFNs take, where a whole token was seen to take so many seconds, and
    all else takes `factor` times as long as predicted.
    """
    rows = sum(time.ffn for time, layer in zip(found.layers, layers, strict=True) if layer.sparse)
    seen = (seconds / factor - (found.seconds - rows)) / rows if rows else 1.0
    return min(FARTHEST, max(1 / FARTHEST, seen))


def predict_dense(machine: MachineCosts) -> Prediction:
    """By whole layers."""
    return make_plan(machine.sizes, None, machine.budgets, machine.profile, machine.settings).prediction


def predict_sparse(
    machine: MachineCosts, look: Look, files: Sequence[LayerBytes], layers: Sequence[LayerEstimate], *, exact: bool
) -> Prediction:
    """By neurons; layers that stay dense are read from front to back. exact: rows but the first are read of neurons
    alone that are not 0.
    """
    if not any(layer.sparse for layer in layers):
        return predict_dense(machine)
    sizes, counts = [], []
    for size, file, layer, seen in zip(machine.sizes.layers, files, layers, look.counts, strict=True):
        counts.append(seen.astype(np.float64))
        if not layer.sparse:
            sizes.append(size)
            continue
        scale = size.neuron / (file.dense / file.n_ff)  # of bytes as they lie there, over those of the file
        neuron = round(scale * (file.first + file.rest))  # down rows as they lie transposed
        sizes.append(
            replace(
                size,
                predictor=round(layer.rank * file.hidden),
                neuron=neuron,
                first=round(scale * file.first) if exact else neuron,
                reading=RowReading.PREDICTED,
                divisible=True,
            )
        )
    placed = replace(machine.sizes, layers=tuple(sizes))
    settings = replace(machine.settings, let_through=tuple(layer.predicted for layer in layers))
    statistics = ActivationStatistics(tuple(counts), look.tokens)
    return make_plan(placed, statistics, machine.budgets, machine.profile, settings).prediction
