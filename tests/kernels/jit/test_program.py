"""Operands have names: each is given once, and none besides."""

import numpy as np
import pytest

from powerinfer_cli.kernels.cpu.norm import QUANTISE, _quantise
from powerinfer_cli.kernels.jit.program import Operation, assemble, operands
from powerinfer_cli.kernels.jit.team import FIRST, WIDTH


def test_names_are_columns() -> None:
    declared = operands("state rows scale")
    assert (declared.state, declared.rows, declared.scale) == (FIRST, FIRST + 1, FIRST + 2)
    with pytest.raises(ValueError, match="a row has room for"):
        operands(" ".join(f"x{i}" for i in range(WIDTH)))


def test_each_name_is_given_once() -> None:
    numbers = np.zeros(512, np.float32)
    given = {"state": np.ones(1, np.int64), "floats": numbers, "records": None, "stride": 512, "relu": True}
    row = assemble([Operation.of(_quantise, QUANTISE, **given)]).table[0]
    assert (row[QUANTISE.floats], row[QUANTISE.records], row[QUANTISE.relu]) == (numbers.ctypes.data, 0, 1)
    for wrong in ({**given, "eps": 0.0}, {name: given[name] for name in given if name != "relu"}):
        with pytest.raises(TypeError, match="quantise has other operands"):
            Operation.of(_quantise, QUANTISE, **wrong)
