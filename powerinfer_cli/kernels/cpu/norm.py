"""The residual stream between two blocks of a layer: add what the last block made, normalise, quantise."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.functions import relu
from powerinfer_cli.kernels.cpu.quantise import quantise_groups
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats import padded, record_bytes
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.norm_codes import NO_NORM, NORM_CODES
from powerinfer_cli.kernels.simd import f32, first, float_of, fma, i64, load_f32, splat, store_f32, total, zero
from powerinfer_cli.model import NormKind

__all__ = ["add", "add_norm", "quantise"]

Floats = npt.NDArray[np.float32]
State = npt.NDArray[np.int64]
_LAYER = NORM_CODES[NormKind.LAYER]
NORM = operands("state x x_records add1 add2 floats records weight bias n stride eps code scale")
QUANTISE = operands("state floats records stride relu")


def add_norm(
    state: State,
    x: Vectors,
    adds: tuple[Floats, ...],
    weight: Floats,
    bias: Floats | None,
    out: Vectors,
    eps: float,
    kind: NormKind,
    scale: float = 1.0,
) -> Operation:
    """x[t] += scale * each of up to two adds[i][t], in place; then out[t] = norm(x[t]) * weight (+ bias).

    adds float32 [T, padded(n)]; weight, bias [n]. Records are made of `x` and of `out` where they have room for any;
    out may be x.
    """
    return _operation(
        state, x, adds, scale, out, _behind_zeros(weight), _behind_zeros(bias), float(eps), NORM_CODES[kind]
    )


def add(state: State, x: Vectors, *adds: Floats, scale: float = 1.0) -> Operation:
    """x[t] += scale * each of up to two adds[i][t], in place, and x's records, if it has any, from the sum."""
    return _operation(state, x, adds, scale, None, None, None, 0.0, NO_NORM)


def quantise(state: State, x: Vectors, *, relu: bool = False) -> Operation:
    """Make x's records of its floats; with `relu`, of what relu leaves of them, in place."""
    return Operation.of(
        _quantise,
        QUANTISE,
        state=state,
        floats=x.floats,
        records=x.records,
        stride=x.stride,
        relu=relu,
    )


def _operation(
    state: State,
    x: Vectors,
    adds: tuple[Floats, ...],
    scale: float,
    out: Vectors | None,
    weight: Floats | None,
    bias: Floats | None,
    eps: float,
    code: int,
) -> Operation:
    add1, add2 = (*adds, None, None)[:2] if len(adds) <= 2 else adds
    for other in (add1, add2):
        if other is not None and other.shape[-1] != x.stride:
            raise ValueError(f"rows of {other.shape[-1]} numbers added to rows of {x.stride}")
    x_records = x.records if x.records.size and out is not x else None
    out_floats = None if out is None else out.floats
    out_records = None if out is None or not out.records.size else out.records
    return Operation.of(
        _add_norm,
        NORM,
        state=state,
        x=x.floats,
        x_records=x_records,
        add1=add1,
        add2=add2,
        floats=out_floats,
        records=out_records,
        weight=weight,
        bias=bias,
        n=x.n,
        stride=x.stride,
        eps=eps,
        code=code,
        scale=float(scale),
    )


def _behind_zeros(weight: Floats | None) -> Floats | None:
    """[n] with zeros up to padded(n)."""
    if weight is None:
        return None
    room = np.zeros(padded(len(weight)), np.float32)
    room[: len(weight)] = weight
    return room


@helper
def _add_row(x, other, scale, n):
    for i in range(0, n, 16):
        store_f32(x, i, load_f32(x, i) + first(load_f32(other, i), n - i) * splat(scale))


@helper
def _mean(x, n):
    a, b = zero(), zero()
    for i in range(0, n, 32):  # what is behind n, up to a multiple of 512, is 0
        a, b = a + load_f32(x, i), b + load_f32(x, i + 16)
    return total(a + b) / np.float32(n)


@helper
def _mean_square(x, shift, n):
    """The mean of (x - shift)**2."""
    a, b, s = zero(), zero(), splat(shift)
    for i in range(0, n, 32):
        low, high = first(load_f32(x, i) - s, n - i), first(load_f32(x, i + 16) - s, n - i - 16)
        a, b = fma(low, low, a), fma(high, high, b)
    return total(a + b) / np.float32(n)


@kernel(OPERATION, "add_norm")
def _add_norm(op_address, worker):
    op = i64(op_address)
    state, x_address, x_records = i64(op[NORM.state]), op[NORM.x], op[NORM.x_records]
    add1, add2, floats, records = op[NORM.add1], op[NORM.add2], op[NORM.floats], op[NORM.records]
    weight, bias, n, stride = f32(op[NORM.weight]), op[NORM.bias], op[NORM.n], op[NORM.stride]
    eps, code, by = float_of(op[NORM.eps]), op[NORM.code], float_of(op[NORM.scale])
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        x = f32(x_address + t * stride * 4)
        if add1:
            _add_row(x, f32(add1 + t * stride * 4), by, n)
        if add2:
            _add_row(x, f32(add2 + t * stride * 4), by, n)
        if x_records:
            quantise_groups(x, 0, stride, x_records + t * record_bytes(stride), stride)
        if code == NO_NORM:
            continue
        mean = _mean(x, n) if code == _LAYER else np.float32(0.0)
        scale = np.float32(1.0) / np.sqrt(_mean_square(x, mean, n) + eps)
        out = f32(floats + t * stride * 4)
        for i in range(0, stride, 16):
            value = (load_f32(x, i) - splat(mean)) * splat(scale) * load_f32(weight, i)
            if bias:
                value = value + load_f32(f32(bias), i)
            store_f32(out, i, value)
        if records:
            quantise_groups(out, 0, stride, records + t * record_bytes(stride), stride)


@kernel(OPERATION, "quantise")
def _quantise(op_address, worker):
    op = i64(op_address)
    state, floats, records, stride, positive = (
        i64(op[QUANTISE.state]),
        op[QUANTISE.floats],
        op[QUANTISE.records],
        op[QUANTISE.stride],
        op[QUANTISE.relu],
    )
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        x = f32(floats + t * stride * 4)
        if positive:
            for i in range(0, stride, 16):
                store_f32(x, i, relu(load_f32(x, i)))
        if records:
            quantise_groups(x, 0, stride, records + t * record_bytes(stride), stride)
