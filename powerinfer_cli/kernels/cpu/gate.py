"""A token's vector times the sigmoid of one number."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import exp
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, fma, i64, load_f32, reciprocal, splat, store_f32, total, zero

__all__ = ["gate"]

Floats = npt.NDArray[np.float32]
OP = operands("state x stride weight out out_stride")


def gate(state: npt.NDArray[np.int64], x: Vectors, weight: Floats, out: Floats) -> Operation:
    """out[t] *= sigmoid(weight . x[t]), in place. weight [n] of x's n; out float32 [T, a multiple of 16]."""
    room = np.zeros(padded(x.n), np.float32)
    room[: x.n] = weight
    return Operation.of(
        _gate, OP, state=state, x=x.floats, stride=x.stride, weight=room, out=out, out_stride=out.shape[1]
    )


@kernel(OPERATION, "gate")
def _gate(op_address, worker):
    op = i64(op_address)
    state, weight, stride, out_stride = i64(op[OP.state]), f32(op[OP.weight]), op[OP.stride], op[OP.out_stride]
    one = splat(np.float32(1.0))
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        x, out, logit = f32(op[OP.x] + t * stride * 4), f32(op[OP.out] + t * out_stride * 4), zero()
        for i in range(0, stride, 16):
            logit = fma(load_f32(x, i), load_f32(weight, i), logit)
        factor = reciprocal(one + exp(splat(-total(logit))))
        for i in range(0, out_stride, 16):
            store_f32(out, i, load_f32(out, i) * factor)
