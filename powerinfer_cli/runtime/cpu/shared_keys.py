"""Attention on the CPU to keys and values that another layer keeps."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import Angles, rope
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import HeadNorms, SharedAttention
from powerinfer_cli.runtime.cpu.buffers import AttentionRoom
from powerinfer_cli.runtime.cpu.experts import Multiply
from powerinfer_cli.runtime.cpu.weights import Floats

__all__ = ["shared_attention"]

State = npt.NDArray[np.int64]


def shared_attention(
    state: State,
    cached: State,
    a: SharedAttention[WeightRows, Floats],
    x: Vectors,
    room: AttentionRoom,
    cache: KeysValues,
    angles: Angles | None,
    multiply: Multiply,
    out: Floats,
    threads: int,
) -> list[Operation]:
    """cache: of the layer whose keys and values are read, with this one's heads; cached: the state for its pages."""
    style = None if a.rope is None else a.rope.style
    return [
        *multiply(x, [(a.q, room.q.floats)]),
        rope(cached, room.q.floats, None, None, cache, angles, style, HeadNorms(a.norm, a.norm)),
        attention(cached, room.q.floats, cache, room.attended, threads, scale=a.scale, window=a.window),
        quantise(state, room.attended),
        *multiply(room.attended, [(a.output, out)]),
    ]
