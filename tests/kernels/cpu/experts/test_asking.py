"""Chosen experts' rows in a mapped file are read before they are needed."""

import ctypes
import mmap
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.experts.asking import ask_for_experts
from powerinfer_cli.kernels.cpu.experts.routing import N_USED, make_routes
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Linear, Neurons
from tests.helpers.kernels.teams import team_of

EXPERTS, ROWS, COLUMNS, HEAD = 4, 96, 1000, 4096 + 32  # an expert's rows begin and end within pages


def rows_of(data: np.ndarray, at: int, *, on_disk: bool = True) -> WeightRows:
    size = EXPERTS * ROWS * COLUMNS * 4
    part = data[HEAD + at * size :][:size]
    return replace(WeightRows(FORMATS[GGMLType.F32], EXPERTS * ROWS, COLUMNS, part, COLUMNS * 4), on_disk=on_disk)


def neurons_of(*rows: WeightRows) -> Neurons[WeightRows, np.ndarray]:
    gate, up, down = (Linear(one, None) for one in rows)
    return Neurons(EXPERTS * ROWS, gate, up, down, transposed=False, activation=Activation.SILU)


def resident(data: np.ndarray) -> np.ndarray:
    """Of each page of a whole map."""
    found = np.zeros(-(-len(data) // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    address, there = ctypes.c_void_p(data.ctypes.data), ctypes.c_void_p(found.ctypes.data)
    assert libc.mincore(address, ctypes.c_size_t(len(data)), there) == 0
    return found & 1


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and posix_fadvise as Linux has them")
def test_rows_of_the_experts_in_use_are_read(tmp_path: Path) -> None:
    path, size = tmp_path / "weights", HEAD + 3 * EXPERTS * ROWS * COLUMNS * 4
    path.write_bytes(bytes(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    routes = make_routes(1, EXPERTS, 2)
    routes.used[:2], routes.counts[N_USED] = (1, 3), 2
    team_of(2).run(assemble(ask_for_experts(neurons_of(*(rows_of(data, i) for i in range(3))), routes)).table)
    expert = ROWS * COLUMNS * 4
    begins = [HEAD + (matrix * EXPERTS + e) * expert for matrix in range(3) for e in (1, 3)]
    wanted = np.concatenate([np.arange(at // mmap.PAGESIZE, (at + expert - 1) // mmap.PAGESIZE + 1) for at in begins])
    end = time.monotonic() + 30
    while not resident(data)[wanted].all() and time.monotonic() < end:
        time.sleep(0.01)
    assert resident(data)[wanted].all()


def test_nothing_is_asked_for_what_is_in_memory() -> None:
    data, routes = np.zeros(HEAD + 3 * EXPERTS * ROWS * COLUMNS * 4, np.uint8), make_routes(1, EXPERTS, 2)
    assert not ask_for_experts(neurons_of(*(rows_of(data, i, on_disk=False) for i in range(3))), routes)
