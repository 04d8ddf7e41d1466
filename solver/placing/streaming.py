"""From how many prompt tokens on it pays to let a model's cold neurons pass through the GPU."""

import math

from powerinfer_cli.placement import MAIN_MEMORY, ModelBytes, Plan
from solver.placing.device_profile import DeviceProfile
from solver.placing.simulation import Prediction

__all__ = ["stream_from"]

BATCH_GAIN = 5.0
"""How much less the CPU takes for a token of a batch than for one alone: 613 and 111 tokens/s (README)."""


def stream_from(plan: Plan, sizes: ModelBytes, prediction: Prediction, profile: DeviceProfile) -> int | None:
    """Tokens of a batch, by the costs of the way to the GPU and of the CPU; None where no layer is divided.

    What the GPU takes for the streamed neurons hides behind their way there.
    """
    way = cpu = 0.0
    for layer, placed, time in zip(sizes.layers, plan.layers, prediction.layers, strict=True):
        if placed.device != MAIN_MEMORY and placed.hot.size < layer.neurons:
            way += layer.neuron * (layer.neurons - placed.hot.size) / profile.link.bandwidth
            cpu += time.cpu
    return max(2, math.ceil(BATCH_GAIN * way / cpu)) if cpu > 0 else None
