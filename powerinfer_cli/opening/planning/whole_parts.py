"""A plan of whole parts: layers, or what of them is not experts, and all of a layer's experts, or as many as fit."""

from collections.abc import Sequence
from dataclasses import replace

from powerinfer_cli.opening.planning.overrides import Kept
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Neurons,
    Plan,
    Reservation,
    all_neurons,
    no_neurons,
    reserve,
)
from solver.placing.replay import most_used

__all__ = ["plan_of_parts"]


def plan_of_parts(job: PlanJob, kept: Kept, *, whole: bool) -> tuple[Plan, tuple[str, ...]]:
    """With remarks. kept: what stays in main memory. whole: a layer goes to a GPU with its experts or not at all; else,
    where the budget does not hold all of them and nobody said which, each layer has as many there as the others.
    """
    room = _reserve(job, kept, ())
    divided = [i for i, layer in enumerate(job.model.layers) if layer.ffn.divisible]
    if divided and not (whole or kept.ffns or _holds_all(room, kept)):
        return _spread(job, kept, divided)
    layers = [
        LayerPlacement(MAIN_MEMORY, no_neurons())
        if device == MAIN_MEMORY or i in kept.layers
        else LayerPlacement(device, all_neurons(size.neurons), size.pages)
        for i, (device, size) in enumerate(zip(room.devices, _sizes(job, kept, ()).layers, strict=True))
    ]
    return _plan(job, kept, room, layers), room.remarks


def _sizes(job: PlanJob, kept: Kept, without: Sequence[int]) -> ModelBytes:
    """What is placed: of layers that stay, nothing; of those whose experts stay, the rest."""
    found = kept.less(job.sizes)
    layers = [replace(one, neurons=0) if i in without else one for i, one in enumerate(found.layers)]
    return replace(found, layers=tuple(layers))


def _reserve(job: PlanJob, kept: Kept, without: Sequence[int]) -> Reservation:
    sizes, shares = _sizes(job, kept, without), job.target.shares
    return reserve(sizes, job.budgets, margin=job.margin, max_layers=job.max_layers, shares=shares, whole=True)


def _holds_all(room: Reservation, kept: Kept) -> bool:
    return (room.output != MAIN_MEMORY or kept.head) and MAIN_MEMORY not in room.devices


def _plan(job: PlanJob, kept: Kept, room: Reservation, layers: Sequence[LayerPlacement]) -> Plan:
    output = MAIN_MEMORY if kept.head else room.output
    return Plan(job.budgets, tuple(layers), output, "layers", job.fingerprint)


def _first(job: PlanJob, layer: int, count: int) -> Neurons:
    """So many of a layer's experts: the most used; where nobody has counted, the first by number."""
    known = job.beside.statistics
    return all_neurons(count) if known is None else most_used([known.counts[layer]], [count])[0]


def _spread(job: PlanJob, kept: Kept, divided: Sequence[int]) -> tuple[Plan, tuple[str, ...]]:
    """As many experts of each layer as of any other, so that both sides work, and use may say which they are to be."""
    room = _reserve(job, kept, divided)
    left = _left(job, _sizes(job, kept, divided).layers, room)
    every = [0] * len(left)
    for i in divided:
        if room.devices[i] != MAIN_MEMORY:
            every[room.devices[i]] += job.sizes.layers[i].neuron
    layers = []
    for i, device in enumerate(room.devices):
        if device == MAIN_MEMORY or i in kept.layers:
            layers.append(LayerPlacement(MAIN_MEMORY, no_neurons()))
            continue
        count = job.sizes.layers[i].neurons
        if i in divided:
            count = min(count, max(0, left[device]) // every[device])
        layers.append(LayerPlacement(device, _first(job, i, count), job.sizes.layers[i].pages))
    plan = _plan(job, kept, room, layers)
    what = "experts" if job.model.has_experts else "neurons"
    alike = f"the budget does not hold all {what}: each layer has as many there as the others"
    divides = any(
        one.device != MAIN_MEMORY and one.hot.size < job.sizes.layers[i].neurons for i, one in enumerate(plan.layers)
    )
    some = not job.model.has_experts or any(plan.layers[i].hot.size for i in divided)
    return plan, (*room.remarks, *([alike] if divides and some else []))


def _left(job: PlanJob, sizes: Sequence[LayerBytes], room: Reservation) -> Sequence[int]:
    """Bytes by GPU that nothing takes yet: what a reservation leaves, less the neurons of its layers."""
    used = [0] * len(room.left)
    for layer, device in zip(sizes, room.devices, strict=True):
        if device != MAIN_MEMORY:
            used[device] += layer.fixed + layer.ffn - layer.least
    return [left - taken for left, taken in zip(room.left, used, strict=True)]
