"""How large the numbers are that meet a matrix: sums of squares by column, over a batch's tokens or an expert's."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.experts.routing import Routes
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, fma, i32, i64, load_f32, store_f32, zero

__all__ = ["expert_squares", "squares"]

Floats = npt.NDArray[np.float32]

ALL = operands("state x stride sums")
BY_EXPERT = operands("starts order x stride n_experts n_chosen by_token sums")


def squares(state: npt.NDArray[np.int64], x: Vectors, sums: Floats) -> Operation:
    """sums[c] = the sum of x[t, c] ** 2 over the batch's tokens t, in their order; sums float32 [x.stride]."""
    return Operation.of(_squares, ALL, state=state, x=x.floats, stride=x.stride, sums=sums)


def expert_squares(routes: Routes, x: Vectors, sums: Floats, *, by_token: bool) -> Operation:
    """The same for each expert over its own tokens: sums float32 [E, x.stride].

    by_token: x has a vector a token; else one a pair, in the pairs' sorted order.
    """
    return Operation.of(
        _expert_squares,
        BY_EXPERT,
        starts=routes.starts,
        order=routes.order,
        x=x.floats,
        stride=x.stride,
        n_experts=routes.n_experts,
        n_chosen=routes.n_chosen,
        by_token=by_token,
        sums=sums,
    )


@kernel(OPERATION, "squares")
def _squares(op_address, worker):
    op = i64(op_address)
    state, x, stride, sums = i64(op[ALL.state]), f32(op[ALL.x]), op[ALL.stride], f32(op[ALL.sums])
    while True:
        begin = take(op) * 16
        if begin >= stride:
            return
        total = zero()
        for t in range(state[N_TOKENS]):
            value = load_f32(x, t * stride + begin)
            total = fma(value, value, total)
        store_f32(sums, begin, total)


@kernel(OPERATION, "expert_squares")
def _expert_squares(op_address, worker):
    op = i64(op_address)
    starts, order, x, stride = (
        i32(op[BY_EXPERT.starts]),
        i32(op[BY_EXPERT.order]),
        f32(op[BY_EXPERT.x]),
        op[BY_EXPERT.stride],
    )
    n_chosen, by_token, sums = op[BY_EXPERT.n_chosen], op[BY_EXPERT.by_token], f32(op[BY_EXPERT.sums])
    while True:
        expert = take(op)
        if expert >= op[BY_EXPERT.n_experts]:
            return
        for begin in range(0, stride, 16):
            total = zero()
            for i in range(starts[expert], starts[expert + 1]):
                row = order[i] // n_chosen if by_token else i
                value = load_f32(x, row * stride + begin)
                total = fma(value, value, total)
            store_f32(sums, expert * stride + begin, total)
