"""What the products of a few experts are told, and where their rows lie."""

import numpy as np

from powerinfer_cli.kernels.cpu.rows import BASE, STRIDE
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.jit.program import operands
from powerinfer_cli.kernels.simd import i32, i64

__all__ = ["DOWN", "GATE_UP", "place_of"]

# The dots, DOT_FEW of the matrices, and the panels are those of a few tokens.
GATE_UP = operands(
    "gate gate_x gate_x_bytes gate_bias gate_dot up up_x up_x_bytes up_bias up_dot n_chosen starts order used counts "
    "ff gates ups stride threads panels panels_bytes"
)
DOWN = operands(
    "state rows x x_bytes bias dot n_chosen starts order used counts weights n_embd out stride add threads panels "
    "panels_bytes"
)


@helper
def place_of(op, v, n):
    """The v-th of n rows, by expert gate's, then up's: its number in its matrix, whether it is up's, its address,
    how many of its run there are from it on.
    """
    ff, parts = op[GATE_UP.ff], 2 if op[GATE_UP.gate] else 1
    run, c = v // ff, v % ff
    is_up = run % parts == parts - 1
    rows = i64(op[GATE_UP.up] if is_up else op[GATE_UP.gate])
    i = np.int64(i32(op[GATE_UP.used])[run // parts]) * ff + c if v < n else np.int64(0)
    return i, is_up, rows[BASE] + i * rows[STRIDE], ff - c
