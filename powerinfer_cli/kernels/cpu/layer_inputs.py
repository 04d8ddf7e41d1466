"""What layers get of a token beside the residual stream: made for all of them at once, taken up by each."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES
from powerinfer_cli.kernels.cpu.functions import activated, activated_number
from powerinfer_cli.kernels.cpu.quantise import quantise_groups
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats import padded, record_bytes
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, float_of, fma, i64, load_f32, splat, store_f32, total, zero
from powerinfer_cli.model import Activation

__all__ = ["add_group_norms", "gate_inputs"]

Floats = npt.NDArray[np.float32]
State = npt.NDArray[np.int64]
NORMS = operands("state x floats stride weight width groups eps")
GATE = operands("state gate gate_stride inputs inputs_stride floats records stride n gain code")


def add_group_norms(state: State, x: Vectors, out: Vectors, weight: Floats, eps: float) -> Operation:
    """out[t] += x[t] / its root mean square * weight, of each group of neighbours by itself, as many as weight [width]
    has numbers; x and out have as many groups.
    """
    room = np.zeros(padded(len(weight)), np.float32)
    room[: len(weight)] = weight
    return Operation.of(
        _add_group_norms,
        NORMS,
        state=state,
        x=x.floats,
        floats=out.floats,
        stride=x.stride,
        weight=room,
        width=len(weight),
        groups=x.n // len(weight),
        eps=float(eps),
    )


def gate_inputs(
    state: State, gate: Floats, inputs: Vectors, begin: int, out: Vectors, activation: Activation, gain: float
) -> Operation:
    """out[t] = act(gain * gate[t]) * inputs[t, begin:], of out's n. gate float32 [T, padded(n)]."""
    return Operation.of(
        _gate_inputs,
        GATE,
        state=state,
        gate=gate,
        gate_stride=gate.shape[1],
        inputs=inputs.floats[:, begin:],
        inputs_stride=inputs.stride,
        floats=out.floats,
        records=out.records,
        stride=out.stride,
        n=out.n,
        gain=float(gain),
        code=ACTIVATION_CODES[activation],
    )


@kernel(OPERATION, "add_group_norms")
def _add_group_norms(op_address, worker):
    op = i64(op_address)
    state, stride, width, weight = i64(op[NORMS.state]), op[NORMS.stride], op[NORMS.width], f32(op[NORMS.weight])
    eps, whole = float_of(op[NORMS.eps]), width // 16 * 16
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        for group in range(op[NORMS.groups]):
            x = f32(op[NORMS.x] + (t * stride + group * width) * 4)
            out, squares = f32(op[NORMS.floats] + (t * stride + group * width) * 4), zero()
            for i in range(0, whole, 16):
                squares = fma(load_f32(x, i), load_f32(x, i), squares)
            square = total(squares)
            for i in range(whole, width):  # vectors would reach into what is another group's
                square += x[i] * x[i]
            scale = np.float32(1.0) / np.sqrt(square / np.float32(width) + eps)
            for i in range(0, whole, 16):
                store_f32(out, i, fma(load_f32(x, i) * splat(scale), load_f32(weight, i), load_f32(out, i)))
            for i in range(whole, width):
                out[i] += x[i] * scale * weight[i]


@kernel(OPERATION, "gate_inputs")
def _gate_inputs(op_address, worker):
    op = i64(op_address)
    state, stride, n, code = i64(op[GATE.state]), op[GATE.stride], op[GATE.n], op[GATE.code]
    gain, whole = float_of(op[GATE.gain]), op[GATE.n] // 16 * 16
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        gate = f32(op[GATE.gate] + t * op[GATE.gate_stride] * 4)
        inputs, out = f32(op[GATE.inputs] + t * op[GATE.inputs_stride] * 4), f32(op[GATE.floats] + t * stride * 4)
        for i in range(0, whole, 16):
            store_f32(out, i, activated(splat(gain) * load_f32(gate, i), code, 0) * load_f32(inputs, i))
        for i in range(whole, n):
            out[i] = activated_number(gain * gate[i], code, 0) * inputs[i]
        quantise_groups(out, 0, stride, op[GATE.records] + t * record_bytes(stride), stride)
