"""Recurrent mixers on the CPU: the room that they need, and their operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.recurrent.convolution import convolve
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import Linear, ShortConvolution, recurrent_layers
from powerinfer_cli.runtime.cpu.experts import Multiply
from powerinfer_cli.runtime.cpu.weights import Block, Floats

__all__ = ["RecurrentRooms", "recurrent_columns", "recurrent_rooms", "short_convolution"]

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
    for n in {one.convolution.channels for one in recurrent_layers(blocks).values()}:
        before, after, value = (make_vectors(n_tokens, n, records=False) for _ in range(3))
        rooms[n] = ShortRoom(before, after, value, make_vectors(n_tokens, n))
    return rooms


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
