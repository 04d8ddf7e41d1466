"""A mixture of experts on the CPU: the room that it needs, and its operations for one token, a few, or many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.experts.asking import ask_for_experts
from powerinfer_cli.kernels.cpu.experts.batch import ExpertWorkspace, experts_batch, make_expert_workspace
from powerinfer_cli.kernels.cpu.experts.routing import Routes, make_routes, most_tiles, route
from powerinfer_cli.kernels.cpu.experts.token import ExpertRoom, experts_token
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_records, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import FFN, ExpertLatents, Linear, Routed, routing_of
from powerinfer_cli.runtime.cpu.weights import Block, CPUNeurons, Floats

__all__ = [
    "ExpertLatentRoom",
    "ExpertLatentRooms",
    "Multiply",
    "RoutedRoom",
    "RoutedRooms",
    "choose",
    "chosen_experts",
    "expert_latent_rooms",
    "expert_workspace",
    "on_latents",
    "routed_rooms",
    "routes_of",
    "sizes_of_experts",
]

Multiply: TypeAlias = Callable[[Vectors, Sequence[tuple[Linear[WeightRows, Floats], Floats]]], list[Operation]]


@dataclass(frozen=True)
class RoutedRoom:
    """Of an FFN of so many experts of which so many are chosen, with so many neurons each."""

    routes: Routes
    experts: ExpertRoom


RoutedRooms: TypeAlias = dict[tuple[int, int, int], RoutedRoom]


def routed_rooms(blocks: Sequence[Block], n_tokens: int) -> RoutedRooms:
    """For up to so many tokens. Values share memory with ups."""
    rooms = {}
    for n_experts, n_chosen, ff in {sizes_of_experts(*one) for one in _routed(blocks)}:
        pairs = n_tokens * n_chosen
        gate, up = (make_vectors(pairs, ff, records=False) for _ in range(2))
        value = replace(up, records=make_records(pairs, ff))
        rooms[n_experts, n_chosen, ff] = RoutedRoom(
            make_routes(n_tokens, n_experts, n_chosen), ExpertRoom(gate, up, value)
        )
    return rooms


@dataclass(frozen=True)
class ExpertLatentRoom:
    """Of latents of so many numbers: what experts read, and their sum."""

    seen: Vectors
    made: Vectors


ExpertLatentRooms: TypeAlias = dict[int, ExpertLatentRoom]


def expert_latent_rooms(blocks: Sequence[Block], n_tokens: int) -> ExpertLatentRooms:
    """For up to so many tokens."""
    found = {one.latents.enter.weight.n_rows for _, one in _routed(blocks) if one.latents is not None}
    return {n: ExpertLatentRoom(make_vectors(n_tokens, n), make_vectors(n_tokens, n)) for n in found}


def expert_workspace(
    blocks: Sequence[Block], n_embd: int, n_tokens: int, scratch: npt.NDArray[np.uint8]
) -> ExpertWorkspace | None:
    """What products of up to so many tokens with experts need; None: there are no experts. scratch: of products."""
    sizes = [sizes_of_experts(*one) for one in _routed(blocks)]
    if not sizes:
        return None
    most = max(most_tiles(n_tokens, n_experts, n_chosen) for n_experts, n_chosen, _ in sizes)
    return make_expert_workspace(most, max(n_embd, *(ff for _, _, ff in sizes)), scratch)


def choose(
    state: npt.NDArray[np.int64],
    ffn: FFN[WeightRows, Floats],
    routed: Routed[WeightRows, Floats],
    x: Vectors,
    rooms: RoutedRooms,
    multiply: Multiply,
    *,
    many: bool,
) -> list[Operation]:
    """What a router makes of x, in the room of its layer's sizes. many: tokens, that need about all experts."""
    routes = rooms[sizes_of_experts(ffn.neurons, routed)].routes
    asking = [] if many else ask_for_experts(ffn.neurons, routes)
    chosen = route(state, routed.router, routes)
    return [*multiply(x, [(routed.router.logits, routes.logits.floats)]), *chosen, *asking]


def chosen_experts(
    state: npt.NDArray[np.int64],
    ffn: FFN[WeightRows, Floats],
    routed: Routed[WeightRows, Floats],
    x: Vectors,
    rooms: RoutedRooms,
    out: Floats,
    workspace: ExpertWorkspace | None,
    panels: npt.NDArray[np.uint8] | None,
    threads: int,
    *,
    add: bool,
) -> list[Operation]:
    """The chosen experts: out[t] is their sum, or, where they are to add, is increased by it. workspace: for many
    tokens; panels: for a few; None: one.
    """
    room = rooms[sizes_of_experts(ffn.neurons, routed)]
    on_input = routed.router.on_input
    if workspace is None:
        token = partial(experts_token, threads=threads, panels=panels)
        return token(state, x, ffn.neurons, room.routes, room.experts, out, add=add, on_input=on_input)
    return experts_batch(state, x, ffn.neurons, room.routes, room.experts, out, workspace, add=add, on_input=on_input)


def on_latents(
    state: npt.NDArray[np.int64],
    latents: ExpertLatents[WeightRows, Floats],
    x: Vectors,
    rooms: ExpertLatentRooms,
    experts: Callable[..., list[Operation]],
    multiply: Multiply,
    out: Floats,
) -> list[Operation]:
    """out = what the chosen experts make of x. experts: their operations, by what they read, `out` and `add`."""
    room = rooms[latents.enter.weight.n_rows]
    return [
        *multiply(x, [(latents.enter, room.seen.floats)]),
        quantise(state, room.seen),
        *experts(room.seen, out=room.made.floats, add=False),
        quantise(state, room.made),
        *multiply(room.made, [(latents.leave, out)]),
    ]


def routes_of(block: Block, rooms: RoutedRooms) -> Routes | None:
    """What its router has chosen, until another layer's does; None: it has none."""
    routed = routing_of(block.ffn.selection)
    return None if routed is None else rooms[sizes_of_experts(block.ffn.neurons, routed)].routes


def _routed(blocks: Sequence[Block]) -> list[tuple[CPUNeurons, Routed[WeightRows, Floats]]]:
    pairs = ((block.ffn.neurons, routing_of(block.ffn.selection)) for block in blocks)
    return [(neurons, routed) for neurons, routed in pairs if routed is not None]


def sizes_of_experts(neurons: CPUNeurons, routed: Routed[WeightRows, Floats]) -> tuple[int, int, int]:
    """Experts, those of them that are chosen, neurons of each."""
    return routed.n_experts, routed.router.n_chosen, neurons.n_ff // routed.n_experts
