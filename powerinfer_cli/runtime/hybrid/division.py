"""How a plan divides a model: runs of layers on one side, what goes to GPUs, and which plans cannot be."""

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import leaves, routing_of
from powerinfer_cli.placement import MAIN_MEMORY, Placement, Plan
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.device.cold_stream import streamable

__all__ = ["Run", "check_plan", "runs_of", "stream_from", "uploaded_bytes", "whole_routed"]


@dataclass(frozen=True)
class Run:
    """Consecutive layers on one side: a GPU's number, or MAIN_MEMORY."""

    side: int
    layers: tuple[int, ...]


def runs_of(plan: Plan) -> list[Run]:
    """The layers of a plan, those that follow another on the same side together."""
    numbered = enumerate(placed.device for placed in plan.layers)
    return [Run(side, tuple(i for i, _ in group)) for side, group in groupby(numbered, key=lambda pair: pair[1])]


def check_plan(plan: Plan, parts: Parts) -> None:
    """Raises PowerInferError: the plan is for other sizes, or divides a layer that cannot be divided."""
    ffns = [layer.ffn for layer in parts.model.layers]
    try:
        plan.check([one.n_groups for one in ffns])
    except ValueError as error:
        raise PowerInferError(f"the placement plan is not for this model: {error}") from error
    for number, (where, one) in enumerate(zip(plan.layers, ffns, strict=True)):
        if where.device != MAIN_MEMORY and where.hot.size < one.n_groups and not one.divisible:
            raise PowerInferError(
                f"the placement plan divides layer {number}, whose down matrix is not transposed: it goes to one side "
                "as a whole"
            )


def whole_routed(plan: Plan, model: Model) -> npt.NDArray[np.int64]:
    """Of layers with experts that are not divided [n_layer, 2]: experts that a token chooses, and hot ones of them."""
    found = np.zeros((len(plan.layers), 2), np.int64)
    for number, (where, layer) in enumerate(zip(plan.layers, model.layers, strict=True)):
        routed, on_gpu = routing_of(layer.ffn.selection), where.device != MAIN_MEMORY
        if routed is not None and (not on_gpu or where.hot.size == routed.n_experts):
            found[number] = routed.router.n_chosen, routed.router.n_chosen * on_gpu
    return found


def stream_from(placement: Placement, parts: Parts) -> float:
    """Batches of so many tokens or more have the cold neurons pass through the GPU."""
    if placement.stream_from is None:
        return math.inf
    if streamable(parts.model):
        return max(2, placement.stream_from)
    parts.events.note(
        "cold neurons stay on the CPU for long prompts, too: only a PowerInfer GGUF holds rows that can be "
        "streamed (powerinfer solve --merge makes one)"
    )
    return math.inf


def uploaded_bytes(parts: Parts, plan: Plan) -> int:
    """How much of the file goes to GPUs."""
    head = leaves(parts.model.head)[0] if plan.output != MAIN_MEMORY else []
    total: int = sum(one.nbytes for one in head)
    for layer, placed in zip(parts.model.layers, plan.layers, strict=True):
        if placed.device == MAIN_MEMORY:
            continue
        neurons = sum(one.nbytes for one in layer.ffn.neurons.matrices)
        hot = neurons * placed.hot.size // max(1, layer.ffn.n_groups)
        total += sum(one.nbytes for one in leaves(layer)[0]) - neurons + hot
    return total
