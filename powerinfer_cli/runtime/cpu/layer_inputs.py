"""What layers get of a token beside the residual stream, on the CPU: the room that it needs, and its operations."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.embedding import embed
from powerinfer_cli.kernels.cpu.layer_inputs import add_group_norms, gate_inputs
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import InputGate, LayerInputs, input_gate_of
from powerinfer_cli.runtime.cpu.experts import Multiply
from powerinfer_cli.runtime.cpu.weights import Block, Floats

__all__ = ["InputRoom", "input_columns", "input_room", "input_share", "inputs_of"]

State = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InputRoom:
    """Of all layers: inputs, and what is projected for them. Of a layer: its gate, and what that lets through."""

    inputs: Vectors
    projected: Vectors
    gate: Vectors
    value: Vectors


def input_room(inputs: LayerInputs[WeightRows, Floats] | None, n_tokens: int) -> InputRoom | None:
    """For up to so many tokens."""
    if inputs is None:
        return None
    every, projected = (make_vectors(n_tokens, inputs.n, records=False) for _ in range(2))
    gate = make_vectors(n_tokens, inputs.width, records=False)
    return InputRoom(every, projected, gate, make_vectors(n_tokens, inputs.width))


def input_columns(blocks: Iterable[Block]) -> list[int]:
    """Of what the gates' products meet."""
    return [gate.width for block in blocks if (gate := input_gate_of(block)) is not None]


def inputs_of(
    state: State,
    inputs: LayerInputs[WeightRows, Floats],
    ids: npt.NDArray[np.int32],
    x: Vectors,
    room: InputRoom,
    multiply: Multiply,
) -> list[Operation]:
    """room.inputs, of tokens whose embeddings x are."""
    return [
        quantise(state, x),
        embed(state, inputs.tokens, ids, room.inputs, scale=inputs.scale),
        *multiply(x, [(inputs.projection, room.projected.floats)]),
        add_group_norms(state, room.projected, room.inputs, inputs.norm.weight, inputs.norm.eps),
    ]


def input_share(
    state: State, gate: InputGate[WeightRows, Floats], x: Vectors, room: InputRoom, multiply: Multiply, out: Floats
) -> list[Operation]:
    """What a layer makes of x and its inputs, before its norm."""
    return [
        *multiply(x, [(gate.gate, room.gate.floats)]),
        gate_inputs(state, room.gate.floats, room.inputs, gate.first, room.value, gate.activation, gate.gain),
        *multiply(room.value, [(gate.output, out)]),
    ]
