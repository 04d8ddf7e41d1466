"""Recurrent mixers on the CPU: the room that they need, and their operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.recurrent.convolution import convolve
from powerinfer_cli.kernels.cpu.recurrent.delta import delta_gates, delta_rule, gate_heads
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import DeltaNet, Linear, ShortConvolution, recurrent_layers
from powerinfer_cli.runtime.cpu.experts import Multiply
from powerinfer_cli.runtime.cpu.weights import Block, Floats

__all__ = [
    "DeltaRooms",
    "RecurrentRooms",
    "delta_net",
    "delta_rooms",
    "recurrent_columns",
    "recurrent_rooms",
    "short_convolution",
]

RecurrentRooms: TypeAlias = dict[int, "ShortRoom"]  # by channels


@dataclass(frozen=True)
class ShortRoom:
    """Of a short convolution of so many channels."""

    before: Vectors
    after: Vectors
    value: Vectors
    made: Vectors


def recurrent_rooms(blocks: Sequence[Block], n_tokens: int) -> RecurrentRooms:
    """For up to so many tokens."""
    rooms = {}
    short = [one for one in recurrent_layers(blocks).values() if isinstance(one, ShortConvolution)]
    for n in {one.convolution.channels for one in short}:
        before, after, value = (make_vectors(n_tokens, n, records=False) for _ in range(3))
        rooms[n] = ShortRoom(before, after, value, make_vectors(n_tokens, n))
    return rooms


@dataclass(frozen=True)
class DeltaRoom:
    """Of a delta net: what is convolved, and what comes of it; gates, decays, betas; what heads make."""

    mixed: Vectors
    seen: Vectors
    gate: Vectors
    alpha: Vectors
    beta: Vectors
    made: Vectors


DeltaRooms: TypeAlias = dict[tuple[int, int, int], DeltaRoom]  # by channels, inner numbers and heads of values


def delta_rooms(blocks: Sequence[Block], n_tokens: int) -> DeltaRooms:
    """For up to so many tokens."""
    nets = [one for one in recurrent_layers(blocks).values() if isinstance(one, DeltaNet)]
    rooms = {}
    for sizes in map(_sizes, nets):
        channels, inner, n_values = sizes
        mixed, seen, gate, alpha, beta = (
            make_vectors(n_tokens, n, records=False) for n in (channels, channels, inner, n_values, n_values)
        )
        rooms[sizes] = DeltaRoom(mixed, seen, gate, alpha, beta, make_vectors(n_tokens, inner))
    return rooms


def _sizes(a: DeltaNet[Any, Any]) -> tuple[int, int, int]:
    return a.convolution.channels, a.n_values * a.value_dim, a.n_values


def delta_net(
    state: npt.NDArray[np.int64],
    a: DeltaNet[WeightRows, Floats],
    x: Vectors,
    rooms: DeltaRooms,
    states: Floats,
    multiply: Multiply,
    out: Floats,
) -> list[Operation]:
    room = rooms[_sizes(a)]
    products: list[tuple[Linear[WeightRows, Floats], Floats]] = [
        (a.mixed, room.mixed.floats),
        (a.gate, room.gate.floats),
        (a.alpha, room.alpha.floats),
        (a.beta, room.beta.floats),
    ]
    return [
        *multiply(x, products),
        convolve(state, room.mixed, a.convolution, states, room.seen, activate=True),
        delta_gates(state, room.alpha, room.beta, a.decay, a.shift),
        delta_rule(state, a, room.seen, room.alpha, room.beta, states, room.made),
        gate_heads(state, room.made, room.gate, a.n_values, a.norm.weight, a.norm.eps),
        quantise(state, room.made),
        *multiply(room.made, [(a.output, out)]),
    ]


def recurrent_columns(blocks: Sequence[Block]) -> list[int]:
    """Of matrices that read what the mixers make."""
    return [one.output.weight.n_cols for one in recurrent_layers(blocks).values()]


def short_convolution(
    state: npt.NDArray[np.int64],
    a: ShortConvolution[WeightRows, Floats],
    x: Vectors,
    rooms: RecurrentRooms,
    states: Floats,
    multiply: Multiply,
    out: Floats,
) -> list[Operation]:
    room = rooms[a.convolution.channels]
    products: list[tuple[Linear[WeightRows, Floats], Floats]] = [
        (a.before, room.before.floats),
        (a.after, room.after.floats),
        (a.value, room.value.floats),
    ]
    return [
        *multiply(x, products),
        convolve(state, room.value, a.convolution, states, room.made, before=room.before, after=room.after),
        quantise(state, room.made),
        *multiply(room.made, [(a.output, out)]),
    ]
