"""Programs for a team: operations with their numbers, put into one table."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.jit import Kernel
from powerinfer_cli.kernels.jit.team import FIRST, WAIT, WIDTH, Program

__all__ = ["Compiled", "Operand", "Operation", "assemble"]

Operand = int | float | bool | None | np.ndarray | WeightRows


@dataclass(frozen=True)
class Operation:
    """One kernel with its operands, which become int64: integers as they are, floats by the bits of their float32,
    arrays and weights by their address, None as 0. `wait`: the next operation needs all of this one's results.
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    wait: bool = True


@dataclass(frozen=True)
class Compiled:
    """A program, and what its addresses point into."""

    table: Program
    operations: tuple[Operation, ...]


def assemble(operations: Sequence[Operation]) -> Compiled:
    """The table of a sequence of operations. The last one always waits."""
    table = np.zeros((len(operations), WIDTH), np.int64)
    for row, operation in zip(table, operations, strict=True):
        row[0], row[WAIT] = operation.kernel.address, operation.wait
        for column, operand in enumerate(operation.operands, start=FIRST):
            row[column] = _number(operand)
    if len(table):
        table[-1, WAIT] = 1
    return Compiled(table, tuple(operations))


def _number(operand: Operand) -> int:
    if operand is None:
        return 0
    if isinstance(operand, float):
        return int(struct.unpack("<i", struct.pack("<f", operand))[0])
    if isinstance(operand, WeightRows):
        return operand.address
    if isinstance(operand, np.ndarray):
        return operand.ctypes.data
    return int(operand)
