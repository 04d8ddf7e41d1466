"""The inner loops of matrix products: a tile of TOKENS tokens times a panel of ROWS rows, sums held in registers.

A token's four bytes (or float) are broadcast to all lanes, so a step is one instruction for 16 rows of one token, and
nothing has to be summed across lanes. `kernels.panels` says how tokens and rows lie.

What the builders here make, in NumPy. With a row's weights s * w + m and a token's numbers d * q, in G groups of
columns: w [ROWS, G, group] and q [TOKENS, G, group] integers, s and m [ROWS, G], d [TOKENS, G],
  multiply:         tile += np.einsum("tg,rg,tgc,rgc->tr", d, s, q, w) + (d * q.sum(axis=2)) @ m.T
  multiply_fixed:   the same without minima
  multiply_floats:  tile += x @ panel                  # x [TOKENS, n], panel [n, ROWS]
  transposer:       target[:columns] = source[:16].T + offset
Multipliers of bytes take one unsigned side: panels hold w + offset (see `offset_of`), and sums start at
-offset * sum of q.
"""

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from powerinfer_cli.kernels.formats.panels import (
    BIASES,
    BLOCK,
    FIXED_BLOCK,
    FIXED_SCALES,
    GROUP,
    HALF_BIASES,
    ROWS,
    SCALES,
    TOKENS,
)
from powerinfer_cli.kernels.jit import RUNG, Rung
from powerinfer_cli.kernels.simd import builders
from powerinfer_cli.kernels.simd.dots import group_products, paired_products, pairs_dotted, start_of
from powerinfer_cli.kernels.simd.sums import load_at, summed

__all__ = ["multiply", "multiply_fixed", "multiply_floats", "transposer"]

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_V = builders.F32x16.llvm
_W = builders.I32x16.llvm
_X = builders.B16.llvm
_SUMS_AT_ONCE = {Rung.VNNI: 12, Rung.ANY: 2}.get(RUNG, 6)  # of 16 rows each, as registers allow
_PAIRS_AT_ONCE = 8


def _parts(tokens: int) -> list[list[tuple[int, int]]]:
    """The sums (token, vector of 16 rows) of a tile, in parts of as many as are computed at a time."""
    n_vectors = max(1, min(ROWS // 16, _SUMS_AT_ONCE // tokens))
    n_tokens = min(tokens, _SUMS_AT_ONCE // n_vectors)
    return [
        [(t + i, v + j) for i in range(min(n_tokens, tokens - t)) for j in range(n_vectors)]
        for t in range(0, tokens, n_tokens)
        for v in range(0, ROWS // 16, n_vectors)
    ]


def _broadcast(builder: Any, address: Any, offset: int, kind: ir.Type) -> Any:
    vector = builders.F32x16 if kind == _F32 else builders.I32x16
    return builders.splatted(builder, load_at(builder, address, offset, kind), vector)


def _places(builder: Any, tile: Any, keys: list[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """The addresses of a tile's sums."""
    return {(t, v): builder.add(tile, _I64((t * ROWS + v * 16) * 4)) for t, v in keys}


@dataclass(frozen=True)
class _Group:
    """Addresses of a group of columns' operands."""

    q: Any  # the first token's bytes
    block: Any  # where the packed tokens' scales and sums are counted from
    biases: int  # behind `block`
    weights: Any
    scales: Any
    mins: Any  # None: there are none


def _add_group(builder: Any, at: _Group, sums: dict[tuple[int, int], Any], group: int, bits: int) -> Any:
    """Integer products of a group of columns, then scaled and added to the float sums."""
    tokens, vectors = sorted({t for t, _ in sums}), sorted({v for _, v in sums})
    has_min = at.mins is not None
    bias = {t: _broadcast(builder, at.block, at.biases + 4 * t, _I32) for t in tokens}
    start = {t: start_of(builder, bias[t], bits, has_min) for t in tokens}

    def weights(v: int, k: Any) -> Any:
        step = builder.add(at.weights, builder.mul(k, _I64(ROWS * 4)))
        return load_at(builder, step, v * 64, builders.B64.llvm)

    def inputs(t: int, k: Any) -> Any:
        step = builder.add(at.q, builder.mul(k, _I64(4)))
        return builder.bitcast(_broadcast(builder, step, t * 32, _I32), builders.B64.llvm)

    if RUNG is Rung.I8MM:
        part = paired_products(builder, sums, group, weights, lambda t, k: load_at(builder, at.q, t * 32 + k * 16, _X))
    else:
        part = group_products(builder, {(t, v): start[t] for t, v in sums}, group // 4, weights, inputs, bits)
    scale = {v: load_at(builder, at.scales, v * 64, _V) for v in vectors}
    low = {v: load_at(builder, at.mins, v * 64, _V) for v in vectors} if has_min else {}
    result = {}
    for t in tokens:
        d = _broadcast(builder, at.block, SCALES + 4 * t, _F32)
        shift = builder.fmul(builder.sitofp(bias[t], _V), d) if has_min else None
        for v in vectors:
            value = builder.sitofp(part[t, v], _V)
            result[t, v] = builders.fused(builder, value, builder.fmul(scale[v], d), sums[t, v])
            if has_min:
                result[t, v] = builders.fused(builder, low[v], shift, result[t, v])
    return result


def multiply(tokens: int, group: int, has_min: bool, bits: int) -> Any:
    """multiply(x, panel, scales, mins, blocks, tile): tile float32 [TOKENS][ROWS] += 32 * blocks columns' products, for
    the first `tokens` tokens. `mins` must be divided by -128: they meet the biases, which are -128 * sums.
    """
    per_block = 32 // group

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, panel, scales, mins, blocks, tile = args

        def body(i: Any, sums: Any) -> Any:
            block = builder.add(x, builder.mul(i, _I64(BLOCK)))
            weights = builder.add(panel, builder.mul(i, _I64(32 * ROWS)))
            step = builder.mul(i, _I64(per_block * ROWS * 4))
            for half in range(per_block):
                behind = _I64(half * ROWS * 4)
                at = _Group(
                    builder.add(block, _I64(half * group)),
                    block,
                    BIASES if group == 32 else HALF_BIASES + half * TOKENS * 4,
                    builder.add(weights, _I64(half * group * ROWS)),
                    builder.add(builder.add(scales, step), behind),
                    builder.add(builder.add(mins, step), behind) if has_min else None,
                )
                sums = _add_group(builder, at, sums, group, bits)
            return sums

        for keys in _parts(tokens):
            summed(builder, blocks, _places(builder, tile, keys), body)
        return context.get_dummy_value()

    @intrinsic
    def multiply_tile(typing, x, panel, scales, mins, blocks, tile):
        return types.void(*[types.int64] * 6), codegen

    return multiply_tile


def _add_fixed(builder: Any, block: Any, weights: Any, scales: Any, sums: dict[tuple[int, int], Any]) -> Any:
    """Products of a group's integers, then scaled and added to the float sums."""
    tokens, vectors = sorted({t for t, _ in sums}), sorted({v for _, v in sums})

    def step(k: Any, part: dict[Any, Any]) -> dict[Any, Any]:
        """Several pairs of columns: a loop over single ones would cost as much as what it repeats."""
        result = dict(part)
        for pair in range(_PAIRS_AT_ONCE):
            at = builder.add(weights, builder.mul(k, _I64(_PAIRS_AT_ONCE * ROWS * 4)))
            w = {v: load_at(builder, at, pair * ROWS * 4 + v * 64, _W) for v in vectors}
            q = builder.add(block, builder.mul(k, _I64(_PAIRS_AT_ONCE * 4)))
            for t in tokens:
                x = _broadcast(builder, q, t * GROUP * 2 + pair * 4, _I32)
                result |= {(t, v): pairs_dotted(builder, result[t, v], w[v], x) for v in vectors}
        return result

    zeros = {key: ir.Constant(_W, None) for key in sums}
    part = builders.rolled(builder, GROUP // 2 // _PAIRS_AT_ONCE, zeros, step)
    scale = {v: load_at(builder, scales, v * 64, _V) for v in vectors}
    result = {}
    for t in tokens:
        d = _broadcast(builder, block, FIXED_SCALES + 4 * t, _F32)
        for v in vectors:
            factor = builder.fmul(scale[v], d)
            result[t, v] = builders.fused(builder, builder.sitofp(part[t, v], _V), factor, sums[t, v])
    return result


def multiply_fixed(tokens: int) -> Any:
    """multiply(x, panel, scales, groups, tile): tile += GROUP * groups columns' products, for the first `tokens`
    tokens.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, panel, scales, groups, tile = args

        def body(i: Any, sums: Any) -> Any:
            block = builder.add(x, builder.mul(i, _I64(FIXED_BLOCK)))
            weights = builder.add(panel, builder.mul(i, _I64(GROUP * ROWS * 2)))
            return _add_fixed(builder, block, weights, builder.add(scales, builder.mul(i, _I64(ROWS * 4))), sums)

        for keys in _parts(tokens):
            summed(builder, groups, _places(builder, tile, keys), body)
        return context.get_dummy_value()

    @intrinsic
    def multiply_tile(typing, x, panel, scales, groups, tile):
        return types.void(*[types.int64] * 5), codegen

    return multiply_tile


def multiply_floats(tokens: int) -> Any:
    """multiply(x, panel, steps, tile): tile += 8 * steps columns' products, for the first `tokens` tokens."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, panel, steps, tile = args

        def body(i: Any, sums: Any) -> Any:
            block = builder.add(x, builder.mul(i, _I64(TOKENS * 32)))
            weights = builder.add(panel, builder.mul(i, _I64(8 * ROWS * 4)))
            for k in range(8):
                w = {v: load_at(builder, weights, (k * ROWS + v * 16) * 4, _V) for v in {v for _, v in sums}}
                values = {t: _broadcast(builder, block, (t * 8 + k) * 4, _F32) for t in {t for t, _ in sums}}
                sums = {(t, v): builders.fused(builder, w[v], values[t], one) for (t, v), one in sums.items()}
            return sums

        for keys in _parts(tokens):
            summed(builder, steps, _places(builder, tile, keys), body)
        return context.get_dummy_value()

    @intrinsic
    def multiply_tile(typing, x, panel, steps, tile):
        return types.void(*[types.int64] * 4), codegen

    return multiply_tile


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """16 vectors of 16 numbers: vector i's lane j goes to vector j's lane i, in four rounds of exchanges of pairs."""
    for round_ in range(4):
        size = 1 << round_  # lanes that stay together
        low = [lane if not lane & size else 16 + lane - size for lane in range(16)]
        high = [lane + size if not lane & size else 16 + lane for lane in range(16)]
        exchanged = list(rows)
        for i in range(16):
            if not i & size:
                a, b = rows[i], rows[i + size]
                exchanged[i] = builder.shuffle_vector(a, b, builders.constant(_I32, low))
                exchanged[i + size] = builder.shuffle_vector(a, b, builders.constant(_I32, high))
        rows = exchanged
    return rows


def transposer(columns: int, offset: int = 0) -> Any:
    """transpose(source, stride, target, step), all in bytes: 16 rows, each of `columns` times four bytes and readable
    for 64, become columns of 16 times four bytes. `offset` is added to each byte.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, stride, target, step = args
        rows = [load_at(builder, builder.add(source, builder.mul(stride, _I64(r))), 0, _W) for r in range(16)]
        for j, column in enumerate(_transposed(builder, rows)[:columns]):
            value = builder.bitcast(column, builders.B64.llvm)
            value = builder.add(value, builders.constant(builders.I8, [offset] * 64)) if offset else value
            where = builder.add(target, builder.mul(step, _I64(j)))
            builder.store(value, builder.inttoptr(where, value.type.as_pointer()), align=4)
        return context.get_dummy_value()

    @intrinsic
    def function(typing, source, stride, target, step):
        return types.void(*[types.int64] * 4), codegen

    return function
