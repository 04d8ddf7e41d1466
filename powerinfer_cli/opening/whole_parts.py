"""A plan of whole parts: layers, or what of them is not experts, and all of a layer's experts, or as many as fit."""

from collections.abc import Sequence
from dataclasses import replace

from powerinfer_cli.opening.overrides import Kept
from powerinfer_cli.opening.plan_job import PlanJob
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
    where the budget does not hold all of them and nobody said which, the first layers' experts stay, so that the rest
    of all layers fits.
    """
    if whole or kept.ffns:
        return _plan(job, kept, _reserve(job, kept, ()), ())
    divided = [i for i, layer in enumerate(job.model.layers) if layer.ffn.divisible]
    room, without = _reserve(job, kept, ()), divided[:0]
    while not _holds_all(room, kept) and len(without) < len(divided):
        without = divided[: len(without) + 1]
        room = _reserve(job, kept, without)
    if without and job.adaptive != "off":
        return _spread(job, kept, divided)
    return _plan(job, kept, room, without)


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


def _plan(job: PlanJob, kept: Kept, room: Reservation, without: Sequence[int]) -> tuple[Plan, tuple[str, ...]]:
    """The last of the layers whose experts stay has as many of them on its GPU as fit there."""
    sizes, layers = _sizes(job, kept, without).layers, list[LayerPlacement]()
    left = list(_left(job, sizes, room))
    for index, device in enumerate(room.devices):
        hot = no_neurons()
        if device == MAIN_MEMORY or index in kept.layers:
            layers.append(LayerPlacement(MAIN_MEMORY, hot))
            continue
        hot = all_neurons(sizes[index].neurons)
        if without and index == without[-1]:
            one = job.sizes.layers[index]
            hot = _first(job, index, min(one.neurons, max(0, left[device]) // one.neuron))
        layers.append(LayerPlacement(device, hot, sizes[index].pages))
    plan = Plan(job.budgets, tuple(layers), MAIN_MEMORY if kept.head else room.output, "layers", job.fingerprint)
    if not without or not plan.gpus:
        return plan, room.remarks
    last = without[-1]
    whose = f"layer {last}" if len(without) == 1 else f"layers {without[0]} to {last}"
    there, those = plan.layers[last].hot.size, "them" if len(without) == 1 else f"layer {last}"
    but = f", but for {there} of {those}," if there else ""
    return plan, (*room.remarks, f"the budget does not hold all experts: those of {whose}{but} stay in main memory")


def _first(job: PlanJob, layer: int, count: int) -> Neurons:
    """So many of a layer's experts: the most used; where nobody has counted, the first by number."""
    known = job.beside.statistics
    return all_neurons(count) if known is None else most_used([known.counts[layer]], [count])[0]


def _spread(job: PlanJob, kept: Kept, divided: Sequence[int]) -> tuple[Plan, tuple[str, ...]]:
    """As many experts of each layer as of any other, since use will say which they are to be."""
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
        layers.append(LayerPlacement(device, all_neurons(count), job.sizes.layers[i].pages))
    plan = Plan(job.budgets, tuple(layers), MAIN_MEMORY if kept.head else room.output, "layers", job.fingerprint)
    alike = ("the budget does not hold all experts: each layer has as many there as the others",)
    return plan, (*room.remarks, *(alike if plan.gpus else ()))


def _left(job: PlanJob, sizes: Sequence[LayerBytes], room: Reservation) -> Sequence[int]:
    """Bytes by GPU that nothing takes yet: what a reservation leaves, less the neurons of its layers."""
    used = [0] * len(room.left)
    for layer, device in zip(sizes, room.devices, strict=True):
        if device != MAIN_MEMORY:
            used[device] += layer.fixed + layer.ffn - layer.least
    return [left - taken for left, taken in zip(room.left, used, strict=True)]
