"""The gated delta rule, token by token, 16 columns of a head's state at a time: these stay in the nearest cache. A pass
adds a token and finds what is known of the next one's key. In chunks a prompt would take about as many multiplications,
and its bits would depend on where it is cut.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import exp, softplus
from powerinfer_cli.kernels.cpu.recurrent.lanes import store_first
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, SEQUENCE, START, segment_at
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    f32,
    first,
    float_of,
    fma,
    i64,
    load_f32,
    reciprocal,
    splat,
    store_f32,
    total,
    zero,
)
from powerinfer_cli.model.blocks import DeltaNet

__all__ = ["delta_gates", "delta_rule", "gate_heads"]

Floats = npt.NDArray[np.float32]
State = npt.NDArray[np.int64]

_EPS = np.float32(1e-6)
GATES = operands("state alpha beta stride n decay shift")
RULE = operands(
    "state mixed mixed_stride g beta gates_stride out out_stride states state_stride first_state n_keys n_values "
    "key_dim value_dim blocks tiled"
)
HEADS = operands("state x gate stride n_heads head_dim weight eps sigmoid")


def delta_gates(state: State, alpha: Vectors, beta: Vectors, decay: Floats, shift: Floats) -> Operation:
    """In place: alpha[t] = e**(decay * softplus(alpha[t] + shift)), beta[t] = sigmoid(beta[t])."""
    rooms = [np.zeros(padded(len(decay)), np.float32) for _ in range(2)]
    for room, numbers in zip(rooms, (decay, shift), strict=True):
        room[: len(numbers)] = numbers
    return Operation.of(
        _gates,
        GATES,
        state=state,
        alpha=alpha.floats,
        beta=beta.floats,
        stride=alpha.stride,
        n=alpha.n,
        decay=rooms[0],
        shift=rooms[1],
    )


def delta_rule(
    state: State, a: DeltaNet[Any, Floats], mixed: Vectors, g: Vectors, beta: Vectors, states: Floats, out: Vectors
) -> Operation:
    """out[t] [n_values * value_dim] of mixed[t], which is queries, keys and values; states: of each sequence, as the
    block lays them out.
    """
    return Operation.of(
        _rule,
        RULE,
        state=state,
        mixed=mixed.floats,
        mixed_stride=mixed.stride,
        g=g.floats,
        beta=beta.floats,
        gates_stride=g.stride,
        out=out.floats,
        out_stride=out.stride,
        states=states,
        state_stride=states.strides[0],
        first_state=a.convolution.state_size,
        n_keys=a.n_keys,
        n_values=a.n_values,
        key_dim=a.key_dim,
        value_dim=a.value_dim,
        blocks=a.n_blocks,
        tiled=a.tiled,
    )


def gate_heads(
    state: State, x: Vectors, gate: Vectors, n_heads: int, weight: Floats | None = None, eps: float = 0.0
) -> Operation:
    """In place: x[t] *= sigmoid(gate[t]); with a weight [head_dim], each head's RMS norm first, and SiLU(gate[t])."""
    head_dim = x.n // n_heads
    room = np.zeros(padded(head_dim), np.float32)
    room[:head_dim] = 1 if weight is None else weight
    return Operation.of(
        _heads,
        HEADS,
        state=state,
        x=x.floats,
        gate=gate.floats,
        stride=x.stride,
        n_heads=n_heads,
        head_dim=head_dim,
        weight=room,
        eps=float(eps),
        sigmoid=weight is None,
    )


@kernel(OPERATION, "delta_gates")
def _gates(op_address, worker):
    op = i64(op_address)
    state, stride, n = i64(op[GATES.state]), op[GATES.stride], op[GATES.n]
    one = splat(np.float32(1.0))
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        alpha, beta = f32(op[GATES.alpha] + t * stride * 4), f32(op[GATES.beta] + t * stride * 4)
        for i in range(0, n, 16):
            steps = softplus(load_f32(alpha, i) + load_f32(f32(op[GATES.shift]), i))
            store_f32(alpha, i, exp(load_f32(f32(op[GATES.decay]), i) * steps))
            store_f32(beta, i, reciprocal(one + exp(zero() - load_f32(beta, i))))


@helper
def _inverse_length(x, n):
    square = zero()
    for i in range(0, n, 16):
        value = first(load_f32(x, i), n - i)
        square = fma(value, value, square)
    return np.float32(1.0) / np.sqrt(total(square) + _EPS)


@helper
def _known(s, k, n):
    """s.T k, of columns of a state. Sums are two, of every other row: one alone would wait for itself."""
    even, odd = zero(), zero()
    for i in range(0, n - 1, 2):
        even = fma(load_f32(s, i * 16), splat(k[i]), even)
        odd = fma(load_f32(s, i * 16 + 16), splat(k[i + 1]), odd)
    if n % 2:
        even = fma(load_f32(s, n * 16 - 16), splat(k[n - 1]), even)
    return even + odd


@helper
def _row(s, i, k, new, factor):
    """A state's row i goes on."""
    value = fma(splat(k[i]), new, load_f32(s, i * 16) * factor)
    store_f32(s, i * 16, value)
    return value


@helper
def _add(s, k, new, factor, q, after, n):
    """s = factor s + k new.T; then s.T q, and s.T after, as `_known` has it."""
    even, odd, known_even, known_odd = zero(), zero(), zero(), zero()
    for i in range(0, n - 1, 2):
        one, two = _row(s, i, k, new, factor), _row(s, i + 1, k, new, factor)
        even, odd = fma(one, splat(q[i]), even), fma(two, splat(q[i + 1]), odd)
        known_even, known_odd = fma(one, splat(after[i]), known_even), fma(two, splat(after[i + 1]), known_odd)
    if n % 2:
        one = _row(s, n - 1, k, new, factor)
        even, known_even = fma(one, splat(q[n - 1]), even), fma(one, splat(after[n - 1]), known_even)
    return even + odd, known_even + known_odd


@kernel(OPERATION, "delta_rule")
def _rule(op_address, worker):
    """A piece is 16 columns of the state of a head, for all tokens of a segment."""
    op = i64(op_address)
    state, n, value_dim, blocks = i64(op[RULE.state]), op[RULE.key_dim], op[RULE.value_dim], op[RULE.blocks]
    n_keys, n_values, scale = op[RULE.n_keys], op[RULE.n_values], np.float32(1.0) / np.sqrt(np.float32(n))
    while True:
        piece = take(op)
        if piece >= blocks * n_values * state[N_SEGMENTS]:
            return
        segment, place = segment_at(state, piece // (blocks * n_values)), piece % (blocks * n_values)
        head, column = place // blocks, place % blocks * 16
        key_head = head % n_keys if op[RULE.tiled] else head // (n_values // n_keys)
        at = op[RULE.first_state] + place * n * 16
        s = f32(op[RULE.states] + segment[SEQUENCE] * op[RULE.state_stride] + at * 4)
        if segment[PAST] == 0:
            for i in range(n):
                store_f32(s, i * 16, zero())
        begin, last = segment[START], segment[START] + segment[COUNT] - 1
        at_k = op[RULE.mixed] + (n_keys + key_head) * n * 4
        known = _known(s, f32(at_k + begin * op[RULE.mixed_stride] * 4), n)
        for t in range(begin, last + 1):
            mixed, gates = op[RULE.mixed] + t * op[RULE.mixed_stride] * 4, t * op[RULE.gates_stride] * 4
            q, k = f32(mixed + key_head * n * 4), f32(at_k + t * op[RULE.mixed_stride] * 4)
            after = f32(at_k + min(t + 1, last) * op[RULE.mixed_stride] * 4)
            v = load_f32(f32(mixed + (2 * n_keys * n + head * value_dim) * 4), column)
            g, beta, of_k = f32(op[RULE.g] + gates)[head], f32(op[RULE.beta] + gates)[head], _inverse_length(k, n)
            new = splat(beta * of_k) * (first(v, value_dim - column) - known * splat(g * of_k))
            made, known = _add(s, k, new, splat(g), q, after, n)
            out = f32(op[RULE.out] + (t * op[RULE.out_stride] + head * value_dim) * 4)
            store_first(out, column, made * splat(scale * _inverse_length(q, n)), value_dim - column)


@kernel(OPERATION, "gate_heads")
def _heads(op_address, worker):
    op = i64(op_address)
    state, stride, n, weight = i64(op[HEADS.state]), op[HEADS.stride], op[HEADS.head_dim], f32(op[HEADS.weight])
    one = splat(np.float32(1.0))
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        for head in range(op[HEADS.n_heads]):
            at = (t * stride + head * n) * 4
            x, gate, factor = f32(op[HEADS.x] + at), f32(op[HEADS.gate] + at), np.float32(1.0)
            if not op[HEADS.sigmoid]:
                square = np.float32(0.0)
                for i in range(n):
                    square += x[i] * x[i]
                factor = np.float32(1.0) / np.sqrt(square / np.float32(n) + float_of(op[HEADS.eps]))
            for i in range(0, n, 16):
                z, old = load_f32(gate, i), load_f32(x, i)
                value = old * splat(factor) * load_f32(weight, i) * reciprocal(one + exp(zero() - z))
                if not op[HEADS.sigmoid]:
                    value = value * z
                store_first(x, i, value, n - i)
