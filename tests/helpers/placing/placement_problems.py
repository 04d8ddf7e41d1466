"""Placement problems with numbers that one can follow by hand."""

from collections.abc import Sequence

import numpy as np

from powerinfer_cli.placement import LayerBytes, ModelBytes, reserve
from solver.placing import Activity, DeviceProfile, Link, Processor, Rates
from solver.placing.problem import Problem, build_problem
from solver.placing.simulation import Work, layer_costs

NEURON = 100  # bytes


def profile(gpu: float = 1e12, cpu: float = 1e9, handover: float = 0.0, fixed: float = 0.0) -> DeviceProfile:
    """Bytes a second of each, seconds of a handover, seconds of any FFN. All else costs nothing."""

    def processor(rate: float) -> Processor:
        return Processor("", 0, {"any": Rates(rate, rate)}, rate, 0.0, fixed, 0.0)

    return DeviceProfile("measured", "", processor(cpu), (processor(gpu),), Link(1e18, handover))


def sizes(neurons: Sequence[int], neuron: int = NEURON) -> ModelBytes:
    """Layers of nothing but neurons."""
    return ModelBytes(tuple(LayerBytes(0, 0, 0, neuron, count) for count in neurons), 0, 0)


def problem(frequencies: Sequence[Sequence[float]], room: int, on: DeviceProfile, neuron: int = NEURON) -> Problem:
    """One GPU with room for so many neurons."""
    activity = Activity(tuple(np.array(layer, np.float64) for layer in frequencies))
    model = sizes([len(layer) for layer in frequencies], neuron)
    return placed_problem(model, activity, [room * neuron], on)


def placed_problem(model: ModelBytes, activity: Activity, budgets: Sequence[int], on: DeviceProfile) -> Problem:
    """By as many layers as fit."""
    return build_problem(model, reserve(model, budgets), layer_costs(Work(model, activity, "any", 0), on))


def power_law(rng: np.random.Generator, n_ff: int, mean: float, exponent: float) -> np.ndarray:
    """Frequencies of a layer, in any order."""
    ranked = (np.arange(1, n_ff + 1) / n_ff) ** -exponent
    found = np.minimum(1.0, ranked * mean * (1 - exponent))
    rng.shuffle(found)
    return found
