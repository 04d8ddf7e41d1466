"""The placement problem: which neurons, or experts, of each layer go to its GPU, so that decoding takes the least time.

Those of a layer cost alike in bytes, so that of any number of hot ones the most frequent are the best. Each layer
is therefore sorted by frequency and cut into groups, and the question is only how many groups are hot: one choice a
layer, of a list of options with their bytes and their time. Time may be any function of the choice; here it is

    max(GPU time of the hot, CPU time of the cold) + handover    while any neuron is cold
    GPU time                                                     with all neurons hot

for the neurons that are expected to be active. To choose one option for each layer within each GPU's budget is a
multiple-choice knapsack problem: small, and its linear relaxation is tight (all but one layer a GPU are whole).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, ModelBytes, Reservation
from solver.placing.costs import CostOf, Counts, Floats, LayerCosts

__all__ = [
    "Options",
    "Problem",
    "Solution",
    "build_problem",
    "lower_bound",
    "options_by_frequency",
    "options_by_time",
    "priced_bound",
]

GROUPS = 128  # a layer's neurons are cut into about so many
BISECTIONS = 100


@dataclass(frozen=True)
class Problem:
    """layers: those to divide, by their index in the model. devices: the GPU of each. room: bytes by GPU."""

    layers: dict[int, LayerCosts]
    devices: dict[int, int]
    room: tuple[int, ...]

    def time(self, hot: dict[int, int]) -> float:
        """Seconds of all FFNs, with so many hot neurons in each layer."""
        return sum(float(self.layers[i].time(np.array([count]))[0]) for i, count in hot.items())

    def used(self, hot: dict[int, int]) -> list[int]:
        """Bytes by GPU."""
        used = [0] * len(self.room)
        for index, count in hot.items():
            used[self.devices[index]] += self.layers[index].neuron * count
        return used


@dataclass(frozen=True)
class Options:
    """What may be chosen for a layer: numbers of hot neurons, the bytes that they take, and what is to be least."""

    counts: Counts
    bytes: Floats
    cost: Floats


@dataclass(frozen=True)
class Solution:
    """hot: neurons by layer. bound: no choice of options costs less. seconds: that the search took."""

    hot: dict[int, int]
    cost: float
    bound: float
    seconds: float


def build_problem(sizes: ModelBytes, reservation: Reservation, cost_of: CostOf) -> Problem:
    """For the layers that a reservation has put on GPUs, but those that are whole there or not at all."""
    placed = zip(sizes.layers, reservation.devices, strict=True)
    devices = {i: gpu for i, (layer, gpu) in enumerate(placed) if gpu != MAIN_MEMORY and layer.divisible}
    return Problem({i: cost_of(i, device) for i, device in devices.items()}, devices, reservation.left)


def options_by_time(layer: LayerCosts, groups: int = GROUPS) -> Options:
    """By seconds; without those that take more bytes than others and no less time."""
    counts = _counts(layer, groups)
    time = layer.time(counts)
    best = np.minimum.accumulate(time)
    worth = np.concatenate([[True], best[1:] < best[:-1]])
    return Options(counts[worth], counts[worth] * float(layer.neuron), time[worth])


def options_by_frequency(layer: LayerCosts, least: int = 0, groups: int = GROUPS) -> Options:
    """By the activations that are missed, the original PowerInfer's objective. least: hot neurons, where any are."""
    counts = _counts(layer, groups)
    counts = counts[(counts == 0) | (counts >= least)]
    return Options(counts, counts * float(layer.neuron), layer.mass[-1] - layer.mass[counts])


def _counts(layer: LayerCosts, groups: int) -> Counts:
    return np.unique(np.linspace(0, layer.n_ff, min(layer.n_ff, groups) + 1).round().astype(np.int64))


def lower_bound(problem: Problem) -> float:
    """Seconds that no choice of so and so many of the most frequent neurons goes below, neuron by neuron.

    Weak duality: with any price on a byte, the sum over layers of the least (time + price of its bytes), less the
    price of all room, is a bound; the best price is found by bisection. This is the linear relaxation's optimum.
    """
    total = 0.0
    for gpu, room in enumerate(problem.room):
        here = [problem.layers[i] for i, device in problem.devices.items() if device == gpu]
        curves = [layer.time(np.arange(layer.n_ff + 1)) for layer in here]
        weights = [np.arange(layer.n_ff + 1, dtype=np.float64) * layer.neuron for layer in here]
        total += priced_bound(curves, weights, room)
    return total


def priced_bound(curves: Sequence[Floats], weights: Sequence[Floats], room: int) -> float:
    """What no choice of one point of each curve goes below, if their weights together are at most `room`."""

    def at(price: float) -> tuple[float, float]:
        """The bound, and the bytes that are chosen at this price."""
        bound, used = -price * room, 0.0
        for curve, weight in zip(curves, weights, strict=True):
            priced = curve + price * weight
            best = int(priced.argmin())
            bound += float(priced[best])
            used += float(weight[best])
        return bound, used

    best, used = at(0.0)
    smallest = min((float(weight[weight > 0].min(initial=np.inf)) for weight in weights), default=np.inf)
    low, high = 0.0, max((float(curve.max(initial=0.0)) for curve in curves), default=0.0) / smallest
    for _ in range(BISECTIONS if used > room else 0):
        price = (low + high) / 2
        bound, used = at(price)
        best = max(best, bound)
        low, high = (price, high) if used > room else (low, price)
        if high - low <= 1e-9 * high:
            break
    return best
