"""Numbers kept within bounds."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import minimum
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, float_of, i64, load_f32, maximum, splat, store_f32

__all__ = ["clamp"]

Floats = npt.NDArray[np.float32]
OP = operands("state x stride limit")


def clamp(state: npt.NDArray[np.int64], x: Floats, limit: float) -> Operation:
    """x[t] = min(max(x[t], -limit), limit), in place. x float32 [T, a multiple of 16]."""
    return Operation.of(_clamp, OP, state=state, x=x, stride=x.shape[1], limit=float(limit))


@kernel(OPERATION, "clamp")
def _clamp(op_address, worker):
    op = i64(op_address)
    state, rows, stride, limit = i64(op[OP.state]), op[OP.x], op[OP.stride], float_of(op[OP.limit])
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        x = f32(rows + t * stride * 4)
        for i in range(0, stride, 16):
            store_f32(x, i, minimum(maximum(load_f32(x, i), splat(-limit)), splat(limit)))
