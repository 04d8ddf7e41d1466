"""What a plan leads one to expect: costs in, seconds and tokens a second of decoding out."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, LayerBytes, LayerPlacement, ModelBytes, Plan, RowReading
from solver.placing.costs import Activity, CostOf, LayerCosts, handover, row_seconds
from solver.placing.device_profile import DeviceProfile, Processor

__all__ = ["LayerTime", "Prediction", "Work", "before_ffn", "layer_costs", "layer_time", "simulate"]


@dataclass(frozen=True)
class Work:
    """What is decoded. activity: of its neurons. kind: ggml's name of the FFN's weight type. n_embd: width of the
    residual stream. depth: the share of the context's positions that a token attends to. head_kind: of the head's
    weights, None for the same.
    """

    sizes: ModelBytes
    activity: Activity
    kind: str
    n_embd: int
    depth: float = 0.0
    head_kind: str | None = None

    def head_seconds(self, on: Processor) -> float:
        """Of the head."""
        return self.sizes.head / on.rates_for(self.head_kind or self.kind).dense


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer for one token.

    before: attention, norms, predictor or router, KV cache. gpu, cpu: of its FFN's hot and cold neurons or experts, at
    the same time. handover: between them, and from a layer that lies elsewhere. covered: the share of activations that
    are hot.
    """

    before: float
    gpu: float
    cpu: float
    ffn: float
    handover: float
    covered: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.before + self.ffn + self.handover


@dataclass(frozen=True)
class Prediction:
    """Seconds for one token; `head` with the last norm, `token` what a token costs besides."""

    layers: tuple[LayerTime, ...]
    head: float
    token: float

    @property
    def seconds(self) -> float:
        """For one token."""
        return sum(layer.total for layer in self.layers) + self.head + self.token

    @property
    def tokens_per_second(self) -> float:
        """Of decoding."""
        return 1.0 / self.seconds


def layer_costs(work: Work, profile: DeviceProfile) -> CostOf:
    """Of each layer on each GPU, found once."""

    @cache
    def of(index: int, gpu: int) -> LayerCosts:
        sizes = work.sizes.layers[index]
        return LayerCosts.of(sizes, work.activity, index, profile, gpu, work.kind, work.n_embd)

    return of


def simulate(plan: Plan, work: Work, profile: DeviceProfile, cost_of: CostOf | None = None) -> Prediction:
    """Decoding of one token by a plan on a machine. cost_of: `layer_costs`, where many plans are looked at."""
    costs = cost_of or layer_costs(work, profile)
    layers = []
    where = MAIN_MEMORY  # the embedding
    for index, placed in enumerate(plan.layers):
        moved = handover(profile.link, work.n_embd) / 2 if placed.device != where else 0.0
        layers.append(layer_time(index, placed, work, profile, costs, moved))
        where = placed.device
    on = _processor(profile, plan.output)
    head = work.head_seconds(on)
    if plan.output != where:
        head += handover(profile.link, work.n_embd) / 2
    token = profile.cpu.token + sum(profile.gpu(gpu).token for gpu in plan.gpus)
    return Prediction(tuple(layers), head, token)


def _processor(profile: DeviceProfile, device: int) -> Processor:
    return profile.cpu if device == MAIN_MEMORY else profile.gpu(device)


def layer_time(
    index: int, placed: LayerPlacement, work: Work, profile: DeviceProfile, cost_of: CostOf, moved: float = 0.0
) -> LayerTime:
    """Of one layer. moved: seconds that its input takes from where the layer before it lies."""
    sizes = work.sizes.layers[index]
    on = _processor(profile, placed.device)
    before = before_ffn(sizes, on, work, profile)
    frequencies = work.activity.frequencies[index]
    expected = float(frequencies.sum())
    covered = float(frequencies[placed.hot].sum()) / expected if expected else 0.0
    if placed.device == MAIN_MEMORY:
        rates = on.rates_for(work.kind)
        cpu = float(row_seconds(sizes, work.activity, index, rates).sum()) + sizes.shared / rates.dense
        if sizes.reading is RowReading.CHOSEN:
            cpu += on.routing
        elif not (work.activity.dense or sizes.reading is RowReading.ALL):
            cpu += on.ffn
        return LayerTime(before, 0.0, cpu, cpu, moved, 0.0)
    costs = cost_of(index, placed.device).with_hot(placed.hot)
    count = np.array([placed.hot.size])
    gpu, cpu, both = (float(found(count)[0]) for found in (costs.gpu_time, costs.cpu_time, costs.time))
    given = costs.handover if placed.hot.size < sizes.neurons else 0.0
    return LayerTime(before, gpu, cpu, both - given, given + moved, covered)


def before_ffn(sizes: LayerBytes, on: Processor, work: Work, profile: DeviceProfile) -> float:
    """Seconds of a layer's attention, norms, predictor or router, and KV cache."""
    weights = (sizes.attention + sizes.predictor - sizes.shared) / on.rates_for(work.kind).dense
    return weights + _attending(sizes, on, work, profile) + on.layer


def _attending(sizes: LayerBytes, on: Processor, work: Work, profile: DeviceProfile) -> float:
    """To the KV cache; the CPU to the pages that a GPU has left to main memory, while the GPU does to its own."""
    seen, whole = sizes.seen(work.depth), sizes.kv + sizes.shared_kv
    outside = 0.0 if on is profile.cpu or sizes.state else max(0.0, seen - whole + sizes.read_outside(sizes.pages))
    if not outside:
        return seen / on.cache
    own, other = (seen - outside) / on.cache, outside / profile.cpu.cache
    both = own + other if profile.link.in_turns else max(own, other)
    return both + handover(profile.link, work.n_embd)
