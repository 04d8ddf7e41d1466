"""What a token is expected to read of cold neurons or experts, if what is left of the GPUs holds those most in use."""

from collections.abc import Callable
from functools import cache

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, ActivationStatistics, LayerBytes, ModelBytes, Reservation, RowReading
from solver.placing.costs import Activity, Floats, activity_from, always_active

__all__ = ["cold_reading"]


def cold_reading(sizes: ModelBytes, statistics: ActivationStatistics | None) -> Callable[[Reservation], float]:
    """Bytes by what lies where: a page of the KV cache may be weighed against them. GPUs' rooms count as one.

    statistics: None, where nobody counted experts.
    """
    activity = always_active(sizes.layers) if statistics is None else activity_from(statistics)
    layers = [i for i, layer in enumerate(sizes.layers) if layer.divisible]
    reads = {i: _reads(sizes.layers[i], activity, i) for i in layers}
    whole = sum(float(one.sum()) for one in reads.values())

    @cache
    def spared(devices: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Bytes on GPUs, and what they spare, of the best first."""
        there = [i for i in layers if devices[i] != MAIN_MEMORY]
        read = np.concatenate([np.zeros(0), *(reads[i] for i in there)])
        size = np.concatenate([np.zeros(0), *(np.full(reads[i].size, float(sizes.layers[i].neuron)) for i in there)])
        order = np.argsort(-read / size, kind="stable")
        taken, spares = (np.concatenate([[0.0], np.cumsum(one[order])]) for one in (size, read))
        return taken, spares

    def cold(room: Reservation) -> float:
        taken, spares = spared(room.devices)
        return whole - float(np.interp(sum(room.left), taken, spares))

    return cold


def _reads(layer: LayerBytes, activity: Activity, index: int) -> Floats:
    """Of each neuron or expert, [n]."""
    used = activity.frequencies[index]
    match layer.reading:
        case RowReading.ALL:
            return np.full(layer.neurons, float(layer.neuron))
        case RowReading.FIRST:
            return layer.first + used * (layer.neuron - layer.first)
        case RowReading.PREDICTED | RowReading.CHOSEN:
            return used * layer.neuron
