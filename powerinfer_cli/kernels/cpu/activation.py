"""The dense FFN's middle: act(gate) * up, or act(up), quantised for the product with the down matrix."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, curve_numbers
from powerinfer_cli.kernels.cpu.functions import activated, gated
from powerinfer_cli.kernels.cpu.quantise import quantise_groups
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats import record_bytes
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, first, i64, load_f32, store_f32
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Curve

__all__ = ["activate"]

_PIECE = 512  # numbers
OP = operands("state gate up floats records stride n code relu_on_up curve")


def activate(
    state: npt.NDArray[np.int64],
    gate: npt.NDArray[np.float32] | None,
    up: npt.NDArray[np.float32],
    out: Vectors,
    activation: Activation,
    *,
    relu_on_up: bool = False,
    curve: Curve | None = None,
) -> Operation:
    """out[t] = act(gate[t]) * up[t], or act(gate[t]) * relu(up[t]), or act(up[t]) where there is no gate.

    gate and up float32 [T, padded(n)], zeros behind n, as `out.floats`.
    """
    return Operation.of(
        _activate,
        OP,
        state=state,
        gate=gate,
        up=up,
        floats=out.floats,
        records=out.records,
        stride=out.stride,
        n=out.n,
        code=ACTIVATION_CODES[activation],
        relu_on_up=relu_on_up,
        curve=curve_numbers(curve),
    )


@kernel(OPERATION, "activate")
def _activate(op_address, worker):
    op = i64(op_address)
    state, gate_address, up_address, floats = i64(op[OP.state]), op[OP.gate], op[OP.up], op[OP.floats]
    records, stride, code, relu_on_up = op[OP.records], op[OP.stride], op[OP.code], op[OP.relu_on_up]
    n, curve = op[OP.n], op[OP.curve]
    pieces = stride // _PIECE
    while True:
        piece = take(op)
        t, begin = piece // pieces, piece % pieces * _PIECE
        if t >= state[N_TOKENS]:
            return
        up, out = f32(up_address + t * stride * 4), f32(floats + t * stride * 4)
        gate = f32(gate_address + t * stride * 4)
        for i in range(begin, begin + _PIECE, 16):
            value = load_f32(up, i)
            if gate_address:
                value = activated(load_f32(gate, i), code, curve) * gated(value, code, relu_on_up)
            else:
                value = activated(value, code, curve)
            store_f32(out, i, first(value, n - i))  # xIELU of 0 is not 0, nor is 1 + 0
        quantise_groups(out, begin, begin + _PIECE, records + t * record_bytes(stride), stride)
