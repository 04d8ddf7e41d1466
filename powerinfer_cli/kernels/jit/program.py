"""Programs for a team: operations with their numbers, put into one table."""

import struct
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.jit import Kernel
from powerinfer_cli.kernels.jit.team import FIRST, WAIT, WIDTH, Program

__all__ = ["CompiledProgram", "Operand", "Operation", "assemble", "operands"]

Operand = int | float | bool | None | np.ndarray | WeightRows


def operands(names: str) -> Any:
    """Declare what a kernel's operations have: columns of a program's row, by name, in this order."""
    fields = names.split()
    if FIRST + len(fields) > WIDTH:
        raise ValueError(f"{len(fields)} operands, but a row has room for {WIDTH - FIRST}")
    return namedtuple("Operands", fields)(*range(FIRST, FIRST + len(fields)))


@dataclass(frozen=True)
class Operation:
    """One kernel with its operands, which become int64: integers as they are, floats by the bits of their float32,
    arrays and weights by their address, None as 0. `wait`: the next operation needs all of this one's results.
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    wait: bool = True

    @classmethod
    def of(cls, kernel: Kernel, declared: Any, **given: Operand) -> "Operation":
        """With the operands that were declared for the kernel, each by its name and none besides."""
        if given.keys() != set(declared._fields):
            raise TypeError(f"{kernel.name} has other operands: {sorted(given.keys() ^ set(declared._fields))}")
        return cls(kernel, tuple(given[name] for name in declared._fields))


@dataclass(frozen=True)
class CompiledProgram:
    """A program, and what its addresses point into."""

    table: Program
    operations: tuple[Operation, ...]


def assemble(operations: Sequence[Operation]) -> CompiledProgram:
    """The table of a sequence of operations. The last one always waits."""
    table = np.zeros((len(operations), WIDTH), np.int64)
    for row, operation in zip(table, operations, strict=True):
        row[0], row[WAIT] = operation.kernel.address, operation.wait
        for column, operand in enumerate(operation.operands, start=FIRST):
            row[column] = _number(operand)
    if len(table):
        table[-1, WAIT] = 1
    return CompiledProgram(table, tuple(operations))


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
