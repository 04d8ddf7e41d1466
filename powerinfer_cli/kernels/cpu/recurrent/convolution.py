"""Causal convolution over a sequence's tokens, each channel by itself."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import silu
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, SEQUENCE, START, segment_at
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, first, fma, i64, load_f32, store_f32, zero
from powerinfer_cli.model.blocks import Convolution

__all__ = ["convolve"]

Floats = npt.NDArray[np.float32]

_BLOCKS = 4  # of 16 channels, that a thread takes at a time
OP = operands("state x before after stride weight bias out n length silu states state_stride kept_stride")


def convolve(
    state: npt.NDArray[np.int64],
    x: Vectors,
    convolution: Convolution[Floats],
    states: Floats,
    out: Vectors,
    *,
    before: Vectors | None = None,
    after: Vectors | None = None,
    activate: bool = False,
) -> Operation:
    """out[t] = after[t] * convolution(before * x)[t], or SiLU of the convolution where it is to `activate`.

    All of as many numbers. states float32 [sequences, at least the convolution's state_size]: what was kept of a
    sequence, unless it begins, and then what is to be kept of it. Zeros come behind the channels.
    """
    n, length = convolution.channels, convolution.length
    weight = np.zeros((length, convolution.stride), np.float32)
    weight[:, :n] = convolution.weight.reshape(n, length).T
    bias = np.zeros(convolution.stride, np.float32)
    if convolution.bias is not None:
        bias[:n] = convolution.bias
    return Operation.of(
        _convolve,
        OP,
        state=state,
        x=x.floats,
        before=None if before is None else before.floats,
        after=None if after is None else after.floats,
        stride=x.stride,
        weight=weight,
        bias=bias,
        out=out.floats,
        n=n,
        length=length,
        silu=activate,
        states=states,
        state_stride=states.strides[0],
        kept_stride=convolution.stride,
    )


@helper
def _input(op, t, i):
    """16 channels of what is convolved, of the batch's token t."""
    at = t * op[OP.stride] + i
    value = load_f32(f32(op[OP.x]), at)
    return value * load_f32(f32(op[OP.before]), at) if op[OP.before] else value


@helper
def _kept(op, segment, row, i):
    """16 channels of an input of before the batch: row 0 is the oldest."""
    at = op[OP.states] + segment[SEQUENCE] * op[OP.state_stride]
    return load_f32(f32(at), row * op[OP.kept_stride] + i) if segment[PAST] else zero()


@helper
def _seen(op, segment, place, i):
    """The input at a place in the segment; those of before it have places below 0."""
    if place >= 0:
        return _input(op, segment[START] + place, i)
    return _kept(op, segment, place + op[OP.length] - 1, i)


@kernel(OPERATION, "convolve")
def _convolve(op_address, worker):
    """A piece is some channels of a segment."""
    op = i64(op_address)
    state, n, length, stride, kept = i64(op[OP.state]), op[OP.n], op[OP.length], op[OP.stride], op[OP.kept_stride]
    pieces = (kept // 16 + _BLOCKS - 1) // _BLOCKS
    while True:
        piece = take(op)
        if piece >= pieces * state[N_SEGMENTS]:
            return
        segment, begin = segment_at(state, piece // pieces), piece % pieces * _BLOCKS * 16
        count = segment[COUNT]
        for i in range(begin, min(begin + _BLOCKS * 16, kept), 16):
            for t in range(count):
                value = load_f32(f32(op[OP.bias]), i)
                for j in range(length):
                    value = fma(
                        _seen(op, segment, t + 1 - length + j, i), load_f32(f32(op[OP.weight]), j * kept + i), value
                    )
                at = (segment[START] + t) * stride + i
                if op[OP.silu]:
                    value = silu(value)
                if op[OP.after]:
                    value = value * load_f32(f32(op[OP.after]), at)
                store_f32(f32(op[OP.out]), at, first(value, n - i))
            states = f32(op[OP.states] + segment[SEQUENCE] * op[OP.state_stride])
            for row in range(length - 1):
                store_f32(states, row * kept + i, _seen(op, segment, count + 1 - length + row, i))
