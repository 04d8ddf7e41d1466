"""Asks the system for the rows of chosen experts, where they lie in a file that main memory does not hold as a whole.

A page that is missing stops its thread until it has been read, and the system then reads many that nobody needs around
it. Asked for at once, all experts' rows come in one go, while others' are multiplied.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.experts.routing import N_USED, Routes
from powerinfer_cli.kernels.cpu.rows import BASE, ROWS, STRIDE, WeightRows
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import i32, i64, will_need
from powerinfer_cli.model.blocks import Neurons

__all__ = ["ask_for_experts"]

Floats: TypeAlias = npt.NDArray[np.float32]

_PAGE = 4096  # or a part of one
_AT_ONCE = 1 << 17  # bytes: of more, systems may read the beginning only

ASK = operands("gate up down n_experts used counts")


def ask_for_experts(neurons: Neurons[WeightRows, Floats], routes: Routes) -> list[Operation]:
    """For those that `routes` has chosen; nothing where their rows are in memory."""
    gate, up, down = neurons.gate, neurons.up.weight, neurons.down.weight
    if not any(rows.on_disk for rows in neurons.matrices):
        return []
    return [
        Operation.of(
            _ask,
            ASK,
            gate=None if gate is None or not gate.weight.on_disk else gate.weight,
            up=up if up.on_disk else None,
            down=down if down.on_disk else None,
            n_experts=routes.n_experts,
            used=routes.used,
            counts=routes.counts,
        )
    ]


@kernel(OPERATION, "ask_for_experts")
def _ask(op_address, worker):
    """A piece is an expert's rows of one matrix; those of down, which are needed last, come behind the others."""
    op = i64(op_address)
    used, n_used, n_experts = i32(op[ASK.used]), i64(op[ASK.counts])[N_USED], op[ASK.n_experts]
    while True:
        piece = take(op)
        if piece >= 3 * n_used:
            return
        if piece >= 2 * n_used:
            matrix, u = op[ASK.down], piece - 2 * n_used
        else:
            matrix, u = op[ASK.up] if piece % 2 else op[ASK.gate], piece // 2
        if matrix:
            rows = i64(matrix)
            size = rows[ROWS] // n_experts * rows[STRIDE]
            begin = rows[BASE] + used[u] * size
            for at in range(begin // _PAGE * _PAGE, begin + size, _AT_ONCE):
                will_need(at, min(_AT_ONCE, begin + size - at))
