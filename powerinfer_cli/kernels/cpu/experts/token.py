"""Chosen experts for one token. They are added up from the first to the last by number.

Rows are cut into shares as a dense matrix's are. A share consists of runs, rows that lie one behind the other: while a
run's last rows are read, memory is asked for the next run's first ones, across the jump to another matrix or expert.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.activation import activate
from powerinfer_cli.kernels.cpu.experts.few import down_few, gate_up_few
from powerinfer_cli.kernels.cpu.experts.open_ups import open_ups
from powerinfer_cli.kernels.cpu.experts.places import DOWN, GATE_UP, place_of
from powerinfer_cli.kernels.cpu.experts.routing import N_PAIRS, N_USED, Routes
from powerinfer_cli.kernels.cpu.experts.whole import down_whole, gate_up_whole
from powerinfer_cli.kernels.cpu.matvec import input_of, stride_of
from powerinfer_cli.kernels.cpu.rows import (
    BASE,
    COLUMNS,
    DOT_ROW,
    STRIDE,
    Bundled,
    WeightRows,
    dot_row,
    row_address,
)
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES, fetch, share
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i32, i64
from powerinfer_cli.model.blocks import Linear, Neurons

__all__ = ["ExpertRoom", "ExpertRows", "experts_token", "opens_ups", "weigh"]

Floats: TypeAlias = npt.NDArray[np.float32]
ExpertRows: TypeAlias = Neurons[WeightRows, Floats]

WEIGH = operands("counts order weights floats stride")


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
    threads: int = 1,
    on_input: bool = False,
    panels: npt.NDArray[np.uint8] | None = None,
) -> list[Operation]:
    """out[t], float32 [T, padded(n_embd)], = the sum of weight * expert(x[t]) over the experts of `routes`, or, `add`,
    is increased by it. threads: for how many the rows are cut into shares; the result is the same for any.
    on_input: weights multiply what experts read. panels: `token_panels`, for a few tokens; None: there is one.
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
    few: dict[str, Operand] = {"panels": panels, "panels_bytes": 0 if panels is None else panels.strides[0]}

    def rows_of(first: Linear[WeightRows, Floats] | None, last: Linear[WeightRows, Floats], out: Vectors) -> Operation:
        """All rows of one matrix, or of two, whose products are in room.gate and `out`."""
        matrix = None if first is None else first.weight
        return Operation.of(
            _kernel_of(last.weight, panels, _gate_up, gate_up_few, gate_up_whole),
            GATE_UP,
            gate=matrix,
            gate_x=None if matrix is None else input_of(matrix, x),
            gate_x_bytes=0 if matrix is None else stride_of(matrix, x),
            gate_bias=None if first is None else first.bias,
            gate_dot=None if matrix is None else _dot_of(matrix, panels),
            up=last.weight,
            up_x=input_of(last.weight, x),
            up_x_bytes=stride_of(last.weight, x),
            up_bias=last.bias,
            up_dot=_dot_of(last.weight, panels),
            **lists,
            **few,
            ff=ff,
            gates=room.gate.floats,
            ups=out.floats,
            stride=out.stride,
            threads=threads,
        )

    if gate is not None and opens_ups(neurons, on_input):
        products = [rows_of(None, gate, room.gate), open_ups(x, up, r, ff, room.gate, room.up)]
    else:
        products = [rows_of(gate, up, room.up)]
    return [
        *products,
        *(weigh(r, room, neurons) if on_input else ()),
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
            _kernel_of(down.weight, panels, _down, down_few, down_whole),
            DOWN,
            state=state,
            rows=down.weight,
            x=input_of(down.weight, room.value),
            x_bytes=stride_of(down.weight, room.value),
            bias=down.bias,
            dot=_dot_of(down.weight, panels),
            **lists,
            **few,
            weights=np.ones_like(r.weights) if on_input else r.weights,
            n_embd=down.weight.n_rows // r.n_experts,
            out=out,
            stride=out.shape[1],
            add=add,
            threads=threads,
        ),
    ]


def opens_ups(neurons: Neurons[Any, Any], on_input: bool) -> bool:
    """Whether, of one token or a few, only ups of open gates are read, here and there."""
    return neurons.gate is not None and neurons.activation.has_exact_zeros and not on_input


def _kernel_of(
    rows: WeightRows, panels: npt.NDArray[np.uint8] | None, one: Kernel, few: Kernel, whole: Kernel
) -> Kernel:
    if rows.bundled is Bundled.WHOLE:
        return whole
    return one if panels is None else few


def _dot_of(rows: WeightRows, panels: npt.NDArray[np.uint8] | None) -> int | None:
    return None if panels is None else rows.format.dot_few.address


def weigh(routes: Routes, room: ExpertRoom, neurons: ExpertRows) -> list[Operation]:
    """Products of pairs times their weights."""
    made = [room.up] if neurons.gate is None else [room.gate, room.up]
    return [
        Operation.of(
            _weigh,
            WEIGH,
            counts=routes.counts,
            order=routes.order,
            weights=routes.weights,
            floats=one.floats,
            stride=one.stride,
        )
        for one in made
    ]


@kernel(OPERATION, "experts_weigh")
def _weigh(op_address, worker):
    """A piece is a pair."""
    op = i64(op_address)
    while True:
        p = take(op)
        if p >= i64(op[WEIGH.counts])[N_PAIRS]:
            return
        pair = i32(op[WEIGH.order])[p]
        floats, weight = f32(op[WEIGH.floats] + p * op[WEIGH.stride] * 4), f32(op[WEIGH.weights])[pair]
        for i in range(op[WEIGH.stride]):
            floats[i] = floats[i] * weight


@helper
def _product(rows, i, address, x, ahead, bias):
    value = dot_row(rows[DOT_ROW], address, x, rows[COLUMNS], ahead)
    return value + f32(bias)[i] if bias else value


@kernel(OPERATION, "experts_gate_up")
def _gate_up(op_address, worker):
    """As `_matvec`, over the rows of gate and up of all experts in use, one behind the other."""
    op = i64(op_address)
    ff, stride, threads, starts = op[GATE_UP.ff], op[GATE_UP.stride], op[GATE_UP.threads], i32(op[GATE_UP.starts])
    n = i64(op[GATE_UP.counts])[N_USED] * ff * (2 if op[GATE_UP.gate] else 1)
    begin, end = share(take(op), threads, n)
    if begin < n:
        fetch(place_of(op, begin, n)[2], AHEAD_BYTES)
    while begin < n:
        i, is_up, there, left = place_of(op, begin, n)
        last = min(begin + left, end)
        rows = i64(op[GATE_UP.up] if is_up else op[GATE_UP.gate])
        x = op[GATE_UP.up_x] if is_up else op[GATE_UP.gate_x]
        bias = op[GATE_UP.up_bias] if is_up else op[GATE_UP.gate_bias]
        out = f32(op[GATE_UP.ups] if is_up else op[GATE_UP.gates])
        expert, row_bytes = i // ff, rows[STRIDE]
        place = np.int64(starts[expert]) * stride - expert * ff
        claimed, next_begin, next_end = last < end, last, end
        next_address = place_of(op, last, n)[2] if claimed else there
        for v in range(begin, last):
            beyond = (v - last) * row_bytes + AHEAD_BYTES
            if beyond >= 0 and not claimed:
                claimed, (next_begin, next_end) = True, share(take(op), threads, n)
                next_address = place_of(op, next_begin, n)[2] if next_begin < n else there
            ahead = next_address + beyond if beyond >= 0 else there + AHEAD_BYTES
            out[place + i] = _product(rows, i, row_address(rows, i, worker), x, ahead, bias)
            i += 1
            there += row_bytes
        if not claimed:
            next_begin, next_end = share(take(op), threads, n)
        begin, end = next_begin, next_end


@kernel(OPERATION, "experts_down")
def _down(op_address, worker):
    """A share is some rows of every expert's, a run of each."""
    op = i64(op_address)
    rows, x, x_bytes, bias = i64(op[DOWN.rows]), op[DOWN.x], op[DOWN.x_bytes], op[DOWN.bias]
    n_embd, weights, threads = op[DOWN.n_embd], f32(op[DOWN.weights]), op[DOWN.threads]
    starts, order, used = i32(op[DOWN.starts]), i32(op[DOWN.order]), i32(op[DOWN.used])
    out, n_used = f32(op[DOWN.out]), i64(op[DOWN.counts])[N_USED]
    base, row_bytes, size = rows[BASE], rows[STRIDE], n_embd * rows[STRIDE]
    begin, end = share(take(op), threads, n_embd)
    fetch(base + used[0] * size + begin * row_bytes, min(AHEAD_BYTES, (end - begin) * row_bytes))
    while begin < n_embd:
        if not op[DOWN.add]:
            for c in range(begin, end):
                out[c] = np.float32(0.0)
        claimed, next_begin, next_end = False, end, end
        for u in range(n_used):
            expert, is_last = np.int64(used[u]), u == n_used - 1
            p = np.int64(starts[expert])
            weight, at = weights[np.int64(order[p])], x + p * x_bytes
            next_address = base + used[0 if is_last else u + 1] * size + begin * row_bytes
            for c in range(begin, end):
                i = expert * n_embd + c
                beyond = (c - end) * row_bytes + AHEAD_BYTES
                if beyond >= 0 and is_last and not claimed:
                    claimed, (next_begin, next_end) = True, share(take(op), threads, n_embd)
                    next_address = base + used[0] * size + next_begin * row_bytes
                ahead = next_address + beyond if beyond >= 0 else base + i * row_bytes + AHEAD_BYTES
                out[c] += weight * _product(rows, i, row_address(rows, i, worker), at, ahead, bias)
        if not claimed:
            next_begin, next_end = share(take(op), threads, n_embd)
        begin, end = next_begin, next_end
