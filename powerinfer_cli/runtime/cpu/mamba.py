"""Mamba-2 on the CPU: the room that it needs, and its operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.recurrent.convolution import convolve
from powerinfer_cli.kernels.cpu.recurrent.mamba import gate_groups, scan, scan_steps
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import Linear, Mamba2, recurrent_layers
from powerinfer_cli.runtime.cpu.experts import Multiply
from powerinfer_cli.runtime.cpu.weights import Block, Floats

__all__ = ["MambaRooms", "mamba2", "mamba_rooms"]


@dataclass(frozen=True)
class MambaRoom:
    """What is convolved, and what comes of it; gates, steps, and what these multiply states by; what heads make."""

    mixed: Vectors
    seen: Vectors
    gate: Vectors
    steps: Vectors
    factors: Vectors
    made: Vectors


MambaRooms: TypeAlias = dict[tuple[int, int, int], MambaRoom]  # by channels, inner numbers and heads


def mamba_rooms(blocks: Sequence[Block], n_tokens: int) -> MambaRooms:
    """For up to so many tokens."""
    rooms = {}
    for sizes in {_sizes(one) for one in recurrent_layers(blocks).values() if isinstance(one, Mamba2)}:
        channels, inner, n_heads = sizes
        mixed, seen, gate, steps, factors = (
            make_vectors(n_tokens, n, records=False) for n in (channels, channels, inner, n_heads, n_heads)
        )
        rooms[sizes] = MambaRoom(mixed, seen, gate, steps, factors, make_vectors(n_tokens, inner))
    return rooms


def _sizes(a: Mamba2[Any, Any]) -> tuple[int, int, int]:
    return a.convolution.channels, a.inner, a.n_heads


def mamba2(
    state: npt.NDArray[np.int64],
    a: Mamba2[WeightRows, Floats],
    x: Vectors,
    rooms: MambaRooms,
    states: Floats,
    multiply: Multiply,
    out: Floats,
) -> list[Operation]:
    room = rooms[_sizes(a)]
    products: list[tuple[Linear[WeightRows, Floats], Floats]] = [
        (a.mixed, room.mixed.floats),
        (a.gate, room.gate.floats),
        (a.steps, room.steps.floats),
    ]
    weight, eps = (None, 0.0) if a.norm is None else (a.norm.weight, a.norm.eps)
    return [
        *multiply(x, products),
        convolve(state, room.mixed, a.convolution, states, room.seen, activate=True),
        scan_steps(state, room.steps, room.factors, a.decay, a.shift),
        scan(state, a, room.seen, room.steps, room.factors, states, room.made),
        gate_groups(state, room.made, room.gate, a.n_groups, weight, eps),
        quantise(state, room.made),
        *multiply(room.made, [(a.output, out)]),
    ]
