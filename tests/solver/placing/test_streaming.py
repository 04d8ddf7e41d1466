"""When cold neurons pass through the GPU: the way there against what the CPU would take, by hand."""

import numpy as np
import pytest

from powerinfer_cli.placement import MAIN_MEMORY, LayerBytes, LayerPlacement, ModelBytes, Plan, all_neurons, no_neurons
from solver.placing.device_profile import DeviceProfile, Link, Processor, Rates
from solver.placing.simulation import LayerTime, Prediction
from solver.placing.streaming import BATCH_GAIN, stream_from

SIZES = ModelBytes((LayerBytes(100, 10, 10, neuron=1000, neurons=8),) * 2, head=10, scratch=0)
CPU = Processor("cpu", 0, {"any": Rates(1e9, 1e9)}, 1e9, 0, 0, 0)
PROFILE = DeviceProfile("measured", "", CPU, (CPU,), Link(bandwidth=1e6, synchronisation=0))


def plan(*hot: int) -> Plan:
    layers = tuple(LayerPlacement(0, np.arange(count, dtype=np.int32)) for count in hot)
    return Plan((1 << 20,), layers, 0, "greedy", "")


def prediction(*cpu: float) -> Prediction:
    return Prediction(tuple(LayerTime(0, 0, seconds, seconds, 0, 0.5) for seconds in cpu), 0, 0)


def test_by_hand() -> None:
    # 6 and 4 cold neurons of 1000 bytes at 1 MB/s take 10 ms; the CPU 1 ms for one token, less in a batch.
    found = stream_from(plan(2, 4), SIZES, prediction(0.0006, 0.0004), PROFILE)
    assert found == pytest.approx(BATCH_GAIN * 10, abs=1)
    assert stream_from(plan(2, 4), SIZES, prediction(10.0, 10.0), PROFILE) == 2


def test_where_nothing_is_divided() -> None:
    assert stream_from(plan(8, 8), SIZES, prediction(0, 0), PROFILE) is None
    layers = (LayerPlacement(MAIN_MEMORY, no_neurons()), LayerPlacement(0, all_neurons(8)))
    whole = Plan((1 << 20,), layers, 0, "layers", "")
    assert stream_from(whole, SIZES, prediction(1.0, 0.0), PROFILE) is None
