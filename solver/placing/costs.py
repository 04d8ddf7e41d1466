"""What a layer's FFN takes for one token, as a function of how many of its neurons are hot."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import ActivationStatistics, LayerBytes, Neurons, RowReading
from solver.placing.device_profile import DeviceProfile, Link, Rates

__all__ = [
    "Activity",
    "CostOf",
    "Counts",
    "Floats",
    "LayerCosts",
    "Together",
    "activity_from",
    "always_active",
    "handover",
    "row_seconds",
]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Together(Protocol):
    """What a profile knows of neurons that fire together.

    A layer's neurons, the most active first, are cut at the ranks `bounds` [G + 1]; covariance [layers, G, G] is that
    of how many of each group are active for a token. tokens: that were counted.
    """

    @property
    def tokens(self) -> int: ...
    @property
    def bounds(self) -> Counts: ...
    @property
    def covariance(self) -> Floats: ...


@dataclass(frozen=True)
class Activity:
    """How often neurons are active, or experts chosen: one vector [n_ff] a layer, 0..1.

    dense: all neurons are computed whatever they are, so that rows are read from front to back. together: how they fire
    together; None where nobody measured it, or where it does not matter. let_through: by layer, the share of neurons
    that its predictor lets through; None: those that are active, and no others.
    """

    frequencies: tuple[Floats, ...]
    dense: bool = False
    together: Together | None = None
    let_through: tuple[float, ...] | None = None

    def passing(self, layer: int) -> Floats:
        """How often each neuron of a layer is let through: when it is active, and in vain as often as any other."""
        active = self.frequencies[layer]
        mean = float(active.mean())
        wanted = mean if self.let_through is None else self.let_through[layer]
        if wanted <= mean or mean >= 1:
            return active * (wanted / mean if mean else 0.0)
        return active + (1 - active) * ((wanted - mean) / (1 - mean))


def activity_from(
    statistics: ActivationStatistics, together: Together | None = None, let_through: Sequence[float] | None = None
) -> Activity:
    """From counts, over as many tokens as are known of, or as the largest of them, as of a neuron always active."""
    largest = max((counts.max(initial=0.0) for counts in statistics.counts), default=0.0)
    seen = statistics.tokens or (together.tokens if together else largest)
    frequencies = tuple(np.clip(counts / (seen or 1.0), 0.0, 1.0) for counts in statistics.counts)
    return Activity(frequencies, together=together, let_through=None if let_through is None else tuple(let_through))


def row_seconds(layer: LayerBytes, activity: Activity, index: int, rates: Rates) -> Floats:
    """What each neuron's rows take of a token's time, [n_ff]."""
    reading = RowReading.ALL if activity.dense else layer.reading
    others = layer.neuron - layer.first
    match reading:
        case RowReading.ALL:
            return np.full(layer.neurons, layer.neuron / rates.dense)
        case RowReading.FIRST:
            return layer.first / rates.dense + activity.frequencies[index] * (others / rates.scattered)
        case RowReading.CHOSEN:
            return activity.frequencies[index] * (layer.neuron / rates.chosen)
        case RowReading.PREDICTED:
            passing = activity.passing(index)
            fired: Floats = np.minimum(passing, activity.frequencies[index])
            return (passing * layer.first + fired * others) / rates.scattered
    assert_never(reading)


def always_active(layers: Sequence[LayerBytes]) -> Activity:
    """Of a dense model; or of a mixture of which nobody knows which experts are chosen more often than others."""
    routed = any(layer.reading is RowReading.CHOSEN for layer in layers)
    return Activity(tuple(map(_usual, layers)), dense=not routed)


def _usual(layer: LayerBytes) -> Floats:
    share = layer.chosen / layer.neurons if layer.reading is RowReading.CHOSEN and layer.neurons else 1.0
    return np.full(layer.neurons, share)


def handover(link: Link, n_embd: int) -> float:
    """Seconds to give a layer's input in float32 to another processor, and to take its part of the output back."""
    return link.synchronisation + 2 * 4 * n_embd / link.bandwidth


@dataclass(frozen=True)
class LayerCosts:
    """An FFN's times, in seconds, with the first n neurons of `order` hot.

    order [n_ff]: the most frequent first, of equal ones the lower. mass [n_ff + 1]: how many of the first n neurons
    are expected to be active. gpu, cpu [n_ff + 1]: what the rows of the first n take there. deviation [n_ff + 1]: how
    far, from token to token, the GPU's time less the CPU's is from its mean; 0 where nobody knows. gpu_fixed,
    cpu_fixed: of any number of neurons; gpu_least: of none, a shared expert's. handover: once both are used. an_expert:
    what one takes on both together, 0 for neurons. in_turns: both do not read at the same time.
    """

    order: Counts
    mass: Floats
    gpu: Floats
    cpu: Floats
    deviation: Floats
    neuron: int
    gpu_fixed: float
    cpu_fixed: float
    handover: float
    gpu_least: float = 0.0
    an_expert: float = 0.0
    in_turns: bool = False

    @classmethod
    def of(
        cls, layer: LayerBytes, activity: Activity, index: int, profile: DeviceProfile, gpu: int, kind: str, n_embd: int
    ) -> "LayerCosts":
        """Of one layer that lies on a GPU, with weights of a type."""
        frequencies = activity.frequencies[index]
        order = np.argsort(-frequencies, kind="stable")

        processor = profile.gpu(gpu)
        rates = processor.rates_for(kind), profile.cpu.rates_for(kind)
        times = [row_seconds(layer, activity, index, one)[order] for one in rates]
        routed = layer.reading is RowReading.CHOSEN
        an_expert = sum(layer.neuron / one.chosen for one in rates) if routed else 0.0
        if routed:
            deviation = _choice_deviation(frequencies[order], an_expert)
        else:
            active = [_active_seconds(layer, one) for one in rates]
            deviation = _deviation(activity.together, index, layer.neurons, *active)
        shared = layer.shared / rates[0].dense
        return cls(
            order=order,
            mass=_running(frequencies[order]),
            gpu=_running(times[0]),
            cpu=_running(times[1]),
            deviation=deviation,
            neuron=layer.neuron,
            gpu_fixed=shared + (processor.routing if routed else processor.ffn),
            cpu_fixed=profile.cpu.routing if routed else profile.cpu.ffn,
            handover=handover(profile.link, n_embd),
            gpu_least=shared,
            an_expert=an_expert,
            in_turns=profile.link.in_turns,
        )

    def with_hot(self, hot: Neurons) -> "LayerCosts":
        """With these neurons first, and then all others. Of how other neurons than the most frequent vary nothing is
        known.
        """
        if np.array_equal(np.sort(self.order[: hot.size]), hot):
            return self
        cold = np.ones(self.n_ff, np.bool_)
        cold[hot] = False
        order = np.concatenate([hot.astype(np.int64), np.flatnonzero(cold)])
        place = np.empty(self.n_ff, np.int64)
        place[self.order] = np.arange(self.n_ff)
        mass, gpu, cpu = (_running(np.diff(one)[place[order]]) for one in (self.mass, self.gpu, self.cpu))
        deviation = _choice_deviation(np.diff(mass), self.an_expert)
        return replace(self, order=order, mass=mass, gpu=gpu, cpu=cpu, deviation=deviation)

    @property
    def n_ff(self) -> int:
        """Neurons."""
        return self.order.size

    def gpu_time(self, hot: Counts) -> Floats:
        """For each number of hot neurons."""
        return np.where(hot > 0, self.gpu_fixed + self.gpu[hot], self.gpu_least)

    def cpu_time(self, hot: Counts) -> Floats:
        """For each number of hot neurons."""
        return np.where(hot < self.n_ff, self.cpu_fixed + self.cpu[-1] - self.cpu[hot], 0.0)

    def time(self, hot: Counts) -> Floats:
        """Until both are done and the sum is there, for each number of hot neurons."""
        gpu, cpu = self.gpu_time(hot), self.cpu_time(hot)
        both = gpu + cpu if self.in_turns else np.maximum(gpu, cpu)
        if self.deviation.any() and not self.in_turns:
            both = np.where(hot > 0, _expected_maximum(gpu, cpu, self.deviation[hot]), both)
        return np.where(hot < self.n_ff, both + self.handover, gpu)


CostOf: TypeAlias = Callable[[int, int], LayerCosts]
"""Of a layer that lies on a GPU."""


def _active_seconds(layer: LayerBytes, rates: Rates) -> float:
    """What one active neuron more takes."""
    match layer.reading:
        case RowReading.ALL | RowReading.CHOSEN:
            return 0.0
        case RowReading.FIRST:
            return (layer.neuron - layer.first) / rates.scattered
        case RowReading.PREDICTED:
            return layer.neuron / rates.scattered
    assert_never(layer.reading)


def _running(values: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _deviation(together: Together | None, layer: int, n_ff: int, gpu: float, cpu: float) -> Floats:
    """Of the GPU's time for the first n neurons less the CPU's for the others, [n_ff + 1]."""
    if together is None or not n_ff:
        return np.zeros(n_ff + 1)
    bounds, covariance = together.bounds, together.covariance
    groups = bounds.size - 1
    fits = groups > 0 and covariance.shape[1:] == (groups, groups) and layer < len(covariance)
    if not fits or bounds[0] != 0 or bounds[-1] != n_ff or (np.diff(bounds) <= 0).any():
        raise PowerInferError("the profile says how another model's neurons fire together: make it anew")
    variances = []
    for cut in range(groups + 1):
        weights = np.where(np.arange(groups) < cut, gpu, -cpu)
        variances.append(float(weights @ covariance[layer] @ weights))
    return np.sqrt(np.interp(np.arange(n_ff + 1), bounds, np.maximum(variances, 0.0)))


def _choice_deviation(frequencies: Floats, an_expert: float) -> Floats:
    """Of the time of the first n experts on one side less that of the others on the other, [E + 1], as if a token's
    choices had nothing to do with each other but that there are always as many (Hajek, 1964).
    """
    apart = _running(frequencies * (1.0 - frequencies))
    share = apart * (apart[-1] - apart) / apart[-1] if apart[-1] > 0 else np.zeros_like(apart)
    return an_expert * np.sqrt(np.maximum(share, 0.0))


_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _expected_maximum(a: Floats, b: Floats, deviation: Floats) -> Floats:
    """Of two normal numbers with means a and b; `deviation`: of their difference (Clark, 1961)."""
    safe = np.maximum(deviation, 1e-300)
    z = np.clip((a - b) / safe, -30.0, 30.0)
    share = 0.5 * (1.0 + _ERF(z / math.sqrt(2.0)))
    found: Floats = a * share + b * (1.0 - share) + deviation * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return found
