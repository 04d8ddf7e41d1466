"""Chosen experts for one token, or for a few: the union of their experts, each row read once for all that need it.

A token's experts are added up from the first to the last by number, and each number of a product is one row's, so a
token gets to the bit what it would get alone.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.activation import activate
from powerinfer_cli.kernels.cpu.matvec import AHEAD_BYTES, input_of, stride_of
from powerinfer_cli.kernels.cpu.routing import N_USED, Routes
from powerinfer_cli.kernels.cpu.rows import COLUMNS, DOT_ROW, STRIDE, WeightRows, dot_row, row_address
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i32, i64
from powerinfer_cli.model.blocks import Neurons

__all__ = ["ExpertRoom", "ExpertRows", "experts_token"]

Floats: TypeAlias = npt.NDArray[np.float32]
ExpertRows: TypeAlias = Neurons[WeightRows, Floats]

_ROWS_AT_ONCE = 32  # of an expert, that a thread claims at a time

GATE_UP = operands(
    "gate gate_x gate_x_bytes gate_bias up up_x up_x_bytes up_bias n_chosen starts order used counts ff gates ups "
    "stride"
)
DOWN = operands("state rows x x_bytes bias n_chosen starts order used counts weights n_embd out stride add")


@dataclass(frozen=True)
class ExpertRoom:
    """What experts are for their tokens: a vector a pair, in the order of `Routes.order`."""

    gate: Vectors
    up: Vectors
    value: Vectors


def experts_token(
    state: npt.NDArray[np.int64],
    x: Vectors,
    neurons: ExpertRows,
    routes: Routes,
    room: ExpertRoom,
    out: Floats,
    *,
    add: bool,
) -> list[Operation]:
    """out[t], float32 [T, padded(n_embd)], = the sum of weight * expert(x[t]) over the experts of `routes`, or, `add`,
    is increased by it.
    """
    r, ff = routes, neurons.n_ff // routes.n_experts
    gate, up, down = neurons.gate, neurons.up, neurons.down
    lists: dict[str, Operand] = {
        "n_chosen": r.n_chosen,
        "starts": r.starts,
        "order": r.order,
        "used": r.used,
        "counts": r.counts,
    }
    first = None if gate is None else gate.weight
    return [
        Operation.of(
            _gate_up,
            GATE_UP,
            gate=first,
            gate_x=None if first is None else input_of(first, x),
            gate_x_bytes=0 if first is None else stride_of(first, x),
            gate_bias=None if gate is None else gate.bias,
            up=up.weight,
            up_x=input_of(up.weight, x),
            up_x_bytes=stride_of(up.weight, x),
            up_bias=up.bias,
            **lists,
            ff=ff,
            gates=room.gate.floats,
            ups=room.up.floats,
            stride=room.up.stride,
        ),
        activate(
            r.counts,
            None if gate is None else room.gate.floats,
            room.up.floats,
            room.value,
            neurons.activation,
            relu_on_up=neurons.relu_on_up,
            curve=neurons.curve,
        ),
        Operation.of(
            _down,
            DOWN,
            state=state,
            rows=down.weight,
            x=input_of(down.weight, room.value),
            x_bytes=stride_of(down.weight, room.value),
            bias=down.bias,
            **lists,
            weights=r.weights,
            n_embd=down.weight.n_rows // r.n_experts,
            out=out,
            stride=out.shape[1],
            add=add,
        ),
    ]


@helper
def _product(rows, i, address, x, ahead, bias):
    value = dot_row(rows[DOT_ROW], address, x, rows[COLUMNS], ahead)
    return value + f32(bias)[i] if bias else value


@helper
def _row_products(rows, i, x, x_bytes, bias, n_chosen, order, begin, end, out, stride, column, worker):
    """out[p, column] = a row's product with the token of each of an expert's pairs."""
    address = row_address(rows, i, worker)
    for p in range(begin, end):
        at = x + np.int64(order[p]) // n_chosen * x_bytes
        ahead = address + rows[STRIDE] + AHEAD_BYTES if p == begin else address
        f32(out)[p * stride + column] = _product(rows, i, address, at, ahead, bias)


@kernel(OPERATION, "experts_gate_up")
def _gate_up(op_address, worker):
    """A piece is some rows of one expert, of gate and up both."""
    op = i64(op_address)
    gate, up, n_chosen, ff = op[GATE_UP.gate], i64(op[GATE_UP.up]), op[GATE_UP.n_chosen], op[GATE_UP.ff]
    starts, order, used = i32(op[GATE_UP.starts]), i32(op[GATE_UP.order]), i32(op[GATE_UP.used])
    n_used, stride = i64(op[GATE_UP.counts])[N_USED], op[GATE_UP.stride]
    pieces = (ff + _ROWS_AT_ONCE - 1) // _ROWS_AT_ONCE
    while True:
        piece = take(op)
        if piece >= n_used * pieces:
            return
        expert, first = np.int64(used[piece // pieces]), piece % pieces * _ROWS_AT_ONCE
        begin, end = np.int64(starts[expert]), np.int64(starts[expert + 1])
        for c in range(first, min(first + _ROWS_AT_ONCE, ff)):
            i = expert * ff + c
            if gate:
                x, step, bias = op[GATE_UP.gate_x], op[GATE_UP.gate_x_bytes], op[GATE_UP.gate_bias]
                out = op[GATE_UP.gates]
                _row_products(i64(gate), i, x, step, bias, n_chosen, order, begin, end, out, stride, c, worker)
            x, step, bias, out = op[GATE_UP.up_x], op[GATE_UP.up_x_bytes], op[GATE_UP.up_bias], op[GATE_UP.ups]
            _row_products(up, i, x, step, bias, n_chosen, order, begin, end, out, stride, c, worker)


@kernel(OPERATION, "experts_down")
def _down(op_address, worker):
    """A piece is some rows of every expert's."""
    op = i64(op_address)
    rows, x, x_bytes, bias = i64(op[DOWN.rows]), op[DOWN.x], op[DOWN.x_bytes], op[DOWN.bias]
    n_chosen, n_embd, weights = op[DOWN.n_chosen], op[DOWN.n_embd], f32(op[DOWN.weights])
    starts, order, used = i32(op[DOWN.starts]), i32(op[DOWN.order]), i32(op[DOWN.used])
    out, stride = f32(op[DOWN.out]), op[DOWN.stride]
    while True:
        first = take(op) * _ROWS_AT_ONCE
        if first >= n_embd:
            return
        last = min(first + _ROWS_AT_ONCE, n_embd)
        if not op[DOWN.add]:
            for t in range(i64(op[DOWN.state])[N_TOKENS]):
                for c in range(first, last):
                    out[t * stride + c] = np.float32(0.0)
        for u in range(i64(op[DOWN.counts])[N_USED]):
            expert = np.int64(used[u])
            begin, end = np.int64(starts[expert]), np.int64(starts[expert + 1])
            for c in range(first, last):
                i = expert * n_embd + c
                address = row_address(rows, i, worker)
                for p in range(begin, end):
                    ahead = address + rows[STRIDE] + AHEAD_BYTES if p == begin else address
                    value = _product(rows, i, address, x + p * x_bytes, ahead, bias)
                    pair = np.int64(order[p])
                    out[pair // n_chosen * stride + c] += weights[pair] * value
