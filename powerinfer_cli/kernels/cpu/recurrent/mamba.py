"""Mamba-2's scan, token by token, 16 columns of a head's state at a time: these stay in the nearest cache."""

from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import exp, silu, softplus
from powerinfer_cli.kernels.cpu.recurrent.lanes import store_first
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, SEQUENCE, START, segment_at
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, first, float_of, fma, i64, load_f32, splat, store_f32, total, zero
from powerinfer_cli.model.blocks import Mamba2

__all__ = ["gate_groups", "scan", "scan_steps"]

Floats = npt.NDArray[np.float32]
State = npt.NDArray[np.int64]

STEPS = operands("state steps factors stride n decay shift")
SCAN = operands(
    "state mixed mixed_stride steps factors steps_stride out out_stride states state_stride first_state n_heads "
    "n_groups value_dim state_dim skip"
)
GROUPS = operands("state x gate stride n_groups size weight eps")


def scan_steps(state: State, steps: Vectors, factors: Vectors, decay: Floats, shift: Floats) -> Operation:
    """In place: steps[t] = softplus(steps[t] + shift); factors[t] = e**(decay * steps[t])."""
    rooms = [np.zeros(padded(len(decay)), np.float32) for _ in range(2)]
    for room, numbers in zip(rooms, (decay, shift), strict=True):
        room[: len(numbers)] = numbers
    return Operation.of(
        _steps,
        STEPS,
        state=state,
        steps=steps.floats,
        factors=factors.floats,
        stride=steps.stride,
        n=steps.n,
        decay=rooms[0],
        shift=rooms[1],
    )


def scan(
    state: State, a: Mamba2[Any, Floats], mixed: Vectors, steps: Vectors, factors: Vectors, states: Floats, out: Vectors
) -> Operation:
    """out[t] [n_heads * value_dim] of mixed[t], which has been convolved; states: of each sequence, as the block lays
    them out.
    """
    return Operation.of(
        _scan,
        SCAN,
        state=state,
        mixed=mixed.floats,
        mixed_stride=mixed.stride,
        steps=steps.floats,
        factors=factors.floats,
        steps_stride=steps.stride,
        out=out.floats,
        out_stride=out.stride,
        states=states,
        state_stride=states.strides[0],
        first_state=a.convolution.state_size,
        n_heads=a.n_heads,
        n_groups=a.n_groups,
        value_dim=a.value_dim,
        state_dim=a.state_dim,
        skip=a.skip,
    )


def gate_groups(
    state: State, x: Vectors, gate: Vectors, n_groups: int, weight: Floats | None = None, eps: float = 0.0
) -> Operation:
    """In place: x[t] *= SiLU(gate[t]); with a weight [x.n], each group's RMS norm behind that."""
    return Operation.of(
        _groups,
        GROUPS,
        state=state,
        x=x.floats,
        gate=gate.floats,
        stride=x.stride,
        n_groups=n_groups,
        size=x.n // n_groups,
        weight=weight,
        eps=float(eps),
    )


@kernel(OPERATION, "scan_steps")
def _steps(op_address, worker):
    op = i64(op_address)
    state, stride, n = i64(op[STEPS.state]), op[STEPS.stride], op[STEPS.n]
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        steps, factors = f32(op[STEPS.steps] + t * stride * 4), f32(op[STEPS.factors] + t * stride * 4)
        for i in range(0, n, 16):
            step = softplus(load_f32(steps, i) + load_f32(f32(op[STEPS.shift]), i))
            store_f32(steps, i, step)
            store_f32(factors, i, exp(load_f32(f32(op[STEPS.decay]), i) * step))


@helper
def _row(s, b, c, i, factor, added, total):
    """A state's row i goes on; what it adds to the sum that is read."""
    kept = fma(splat(b[i]), added, load_f32(s, i * 16) * factor)
    store_f32(s, i * 16, kept)
    return fma(kept, splat(c[i]), total)


@kernel(OPERATION, "scan")
def _scan(op_address, worker):
    """A piece is 16 columns of the state of a head, for all tokens of a segment."""
    op = i64(op_address)
    state, n, dim, n_heads = i64(op[SCAN.state]), op[SCAN.state_dim], op[SCAN.value_dim], op[SCAN.n_heads]
    n_groups, blocks = op[SCAN.n_groups], (dim + 15) // 16
    while True:
        piece = take(op)
        if piece >= blocks * n_heads * state[N_SEGMENTS]:
            return
        segment, place = segment_at(state, piece // (blocks * n_heads)), piece % (blocks * n_heads)
        head, column = place // blocks, place % blocks * 16
        group, skip = head // (n_heads // n_groups), splat(f32(op[SCAN.skip])[head])
        s = f32(
            op[SCAN.states] + segment[SEQUENCE] * op[SCAN.state_stride] + (op[SCAN.first_state] + place * n * 16) * 4
        )
        if segment[PAST] == 0:
            for i in range(n):
                store_f32(s, i * 16, zero())
        for t in range(segment[START], segment[START] + segment[COUNT]):
            mixed = op[SCAN.mixed] + t * op[SCAN.mixed_stride] * 4
            value = first(load_f32(f32(mixed), head * dim + column), dim - column)
            b = f32(mixed + (n_heads * dim + group * n) * 4)
            c = f32(mixed + (n_heads * dim + (n_groups + group) * n) * 4)
            factor = splat(f32(op[SCAN.factors] + t * op[SCAN.steps_stride] * 4)[head])
            added = value * splat(f32(op[SCAN.steps] + t * op[SCAN.steps_stride] * 4)[head])
            made = _row(s, b, c, 0, factor, added, zero())
            second, third, fourth = zero(), zero(), zero()  # sums of their own: one would wait for itself
            for i in range(1, n - 3, 4):
                made = _row(s, b, c, i, factor, added, made)
                second = _row(s, b, c, i + 1, factor, added, second)
                third = _row(s, b, c, i + 2, factor, added, third)
                fourth = _row(s, b, c, i + 3, factor, added, fourth)
            for i in range(n - (n - 1) % 4, n):
                made = _row(s, b, c, i, factor, added, made)
            made = made + second + (third + fourth)
            out = f32(op[SCAN.out] + (t * op[SCAN.out_stride] + head * dim) * 4)
            store_first(out, column, fma(skip, value, made), dim - column)


@kernel(OPERATION, "gate_groups")
def _groups(op_address, worker):
    """A piece is a group of a token."""
    op = i64(op_address)
    state, n_groups, n = i64(op[GROUPS.state]), op[GROUPS.n_groups], op[GROUPS.size]
    while True:
        piece = take(op)
        if piece >= state[N_TOKENS] * n_groups:
            return
        group = piece % n_groups
        at = (piece // n_groups * op[GROUPS.stride] + group * n) * 4
        x, gate, square = f32(op[GROUPS.x] + at), f32(op[GROUPS.gate] + at), zero()
        for i in range(0, n, 16):
            value = first(load_f32(x, i) * silu(load_f32(gate, i)), n - i)
            square = fma(value, value, square)
            store_first(x, i, value, n - i)
        if op[GROUPS.weight]:
            factor = np.float32(1.0) / np.sqrt(total(square) / np.float32(n) + float_of(op[GROUPS.eps]))
            weight = f32(op[GROUPS.weight] + group * n * 4)
            for i in range(0, n, 16):
                store_first(x, i, load_f32(x, i) * splat(factor) * load_f32(weight, i), n - i)
