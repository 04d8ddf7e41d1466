"""What a layer's FFN takes for one token, as a function of how many of its neurons are hot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement import ActivationStatistics, LayerBytes, Neurons
from solver.device_profile import DeviceProfile, Link, Processor

__all__ = ["Activity", "Counts", "Floats", "LayerCosts", "activity_from", "always_active", "handover"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Activity:
    """How often neurons are active: one vector [n_ff] a layer, 0..1.

    dense: all neurons are computed whatever they are, so that rows are read from front to back. dispersion: by layer,
    the variance of how many neurons are active at a time, over what it would be if they were independent; None where
    nobody measured it.
    """

    frequencies: tuple[Floats, ...]
    dense: bool = False
    dispersion: tuple[float, ...] | None = None


def activity_from(
    statistics: ActivationStatistics, tokens: int | None = None, dispersion: Sequence[float] | None = None
) -> Activity:
    """From counts over so many tokens; None: as many as the largest count, as of a neuron that is always active."""
    seen = tokens or max((counts.max(initial=0.0) for counts in statistics.counts), default=0.0) or 1.0
    frequencies = tuple(np.clip(counts / seen, 0.0, 1.0) for counts in statistics.counts)
    return Activity(frequencies, dispersion=None if dispersion is None else tuple(dispersion))


def always_active(layers: Sequence[LayerBytes]) -> Activity:
    """Of a dense model."""
    return Activity(tuple(np.ones(layer.neurons) for layer in layers), dense=True)


def handover(link: Link, n_embd: int) -> float:
    """Seconds to give a layer's input in float32 to another processor, and to take its part of the output back."""
    return link.synchronisation + 2 * 4 * n_embd / link.bandwidth


@dataclass(frozen=True)
class LayerCosts:
    """An FFN's times, in seconds, with the first n neurons of `order` hot.

    order [n_ff]: the most frequent first, of equal ones the lower. mass [n_ff + 1]: how many of the first n neurons
    are expected to be active; spread: their variance, all 0 where it is not known. gpu, cpu: seconds for one active
    neuron. gpu_fixed, cpu_fixed: seconds for any. handover: seconds, once both are used.
    """

    order: Counts
    mass: Floats
    spread: Floats
    neuron: int
    gpu: float
    cpu: float
    gpu_fixed: float
    cpu_fixed: float
    handover: float

    @classmethod
    def of(
        cls, layer: LayerBytes, activity: Activity, index: int, profile: DeviceProfile, gpu: int, kind: str, n_embd: int
    ) -> "LayerCosts":
        """Of one layer that lies on a GPU, with weights of a type."""
        frequencies = activity.frequencies[index]
        order = np.argsort(-frequencies, kind="stable")
        factor = activity.dispersion[index] if activity.dispersion else 0.0

        def seconds(processor: Processor) -> float:
            rates = processor.rates_for(kind)
            return layer.neuron / (rates.dense if activity.dense else rates.scattered)

        processor = profile.gpu(gpu)
        return cls(
            order=order,
            mass=_running(frequencies[order]),
            spread=_running(factor * frequencies[order] * (1 - frequencies[order])),
            neuron=layer.neuron,
            gpu=seconds(processor),
            cpu=seconds(profile.cpu),
            gpu_fixed=processor.ffn,
            cpu_fixed=profile.cpu.ffn,
            handover=handover(profile.link, n_embd),
        )

    def with_hot(self, hot: Neurons) -> "LayerCosts":
        """With these neurons first, and then all others."""
        cold = np.ones(self.n_ff, np.bool_)
        cold[hot] = False
        order = np.concatenate([hot.astype(np.int64), np.flatnonzero(cold)])
        back = np.empty(self.n_ff, np.int64)
        back[self.order] = np.arange(self.n_ff)
        mass, spread = (_running(np.diff(total)[back[order]]) for total in (self.mass, self.spread))
        return replace(self, order=order, mass=mass, spread=spread)

    @property
    def n_ff(self) -> int:
        """Neurons."""
        return self.order.size

    def gpu_time(self, hot: Counts) -> Floats:
        """For each number of hot neurons."""
        return np.where(hot > 0, self.gpu_fixed + self.mass[hot] * self.gpu, 0.0)

    def cpu_time(self, hot: Counts) -> Floats:
        """For each number of hot neurons."""
        return np.where(hot < self.n_ff, self.cpu_fixed + (self.mass[-1] - self.mass[hot]) * self.cpu, 0.0)

    def time(self, hot: Counts) -> Floats:
        """Until both are done and the sum is there, for each number of hot neurons."""
        gpu, cpu = self.gpu_time(hot), self.cpu_time(hot)
        both = np.maximum(gpu, cpu)
        if self.spread[-1] > 0:
            deviations = self.spread[hot] * self.gpu**2 + (self.spread[-1] - self.spread[hot]) * self.cpu**2
            both = _expected_maximum(gpu, cpu, np.sqrt(deviations))
        return np.where(hot < self.n_ff, both + self.handover, gpu)


def _running(values: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _expected_maximum(a: Floats, b: Floats, deviation: Floats) -> Floats:
    """Of two independent normal numbers with means a and b; `deviation`: of their difference (Clark, 1961)."""
    safe = np.maximum(deviation, 1e-300)
    z = np.clip((a - b) / safe, -30.0, 30.0)
    share = 0.5 * (1.0 + _ERF(z / math.sqrt(2.0)))
    found: Floats = a * share + b * (1.0 - share) + deviation * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return found
