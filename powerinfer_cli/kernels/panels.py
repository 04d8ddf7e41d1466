"""The inner loops of matrix products: a tile of TOKENS tokens times a panel of ROWS rows, sums held in registers.

Lanes are rows. A panel of bytes holds for each four columns the ROWS rows' four bytes; scales, minima and float
weights lie as [column or group][ROWS]. A token's four bytes (or float) are broadcast to all lanes, so a step is one
instruction for 16 rows of one token, and nothing has to be summed across lanes.

Packed tokens, int: for each 32 columns BLOCK bytes:
  int8 q [TOKENS][32]; float32 d [TOKENS]; int32 -128 * sums of q [TOKENS]; the same per half: int32 [2][TOKENS]
Packed tokens, float: for each 8 columns float32 [TOKENS][8].
The multipliers of AVX-512 VNNI take one unsigned side: there panels hold w + 128, and sums start at -128 * sum of q.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import RUNG, Rung
from powerinfer_cli.kernels.simd import builders, dots

__all__ = ["BIASES", "BLOCK", "HALF_BIASES", "ROWS", "SCALES", "TOKENS", "multiply", "multiply_floats", "transposer"]

TOKENS, ROWS = 6, 32  # 12 float and 12 integer sums, of 32 registers
SCALES, BIASES, HALF_BIASES, BLOCK = 192, 216, 256, 320  # bytes
FLIPPED = RUNG is Rung.VNNI  # panels hold w + 128

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_V = builders.F32x16.llvm
_W = builders.I32x16.llvm
# Where registers are few, a tile is computed in parts: (tokens, vectors of 16 rows).
_PARTS = (
    [(range(TOKENS), range(2))] if FLIPPED else [(range(t, t + 2), range(v, v + 1)) for t in (0, 2, 4) for v in (0, 1)]
)


def _at(builder: Any, address: Any, offset: int, kind: ir.Type) -> Any:
    pointer = builder.inttoptr(builder.add(address, _I64(offset)), kind.as_pointer())
    return builder.load(pointer, align=1)


def _broadcast(builder: Any, address: Any, offset: int, kind: ir.Type) -> Any:
    vector = builders.F32x16 if kind == _F32 else builders.I32x16
    return builders.splatted(builder, _at(builder, address, offset, kind), vector)


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return builders.call(builder, "llvm.fmuladd.v16f32", _V, x, y, z, flags=("contract",))


def _part(builder: Any, tile: Any, steps: Any, keys: list[tuple[int, int]], body: Any) -> None:
    """Sums from the tile, `steps` times body(i, sums), sums to the tile."""
    rooms = {}
    for t, v in keys:
        rooms[t, v] = cgutils.alloca_once_value(builder, _at(builder, tile, (t * ROWS + v * 16) * 4, _V))
    with cgutils.for_range(builder, steps) as loop:
        sums = body(loop.index, {key: builder.load(room) for key, room in rooms.items()})
        for key, room in rooms.items():
            builder.store(sums[key], room)
    for t, v in keys:
        where = builder.inttoptr(builder.add(tile, _I64((t * ROWS + v * 16) * 4)), _V.as_pointer())
        builder.store(builder.load(rooms[t, v]), where, align=4)


def _step(
    builder: Any, x: Any, panel: Any, scales: Any, mins: Any, keys: Any, sums: Any, biases: int, width: int
) -> Any:
    """One group of `width` columns: integer products, then scaled and added to the float sums."""
    tokens, vectors = sorted({t for t, _ in keys}), sorted({v for _, v in keys})
    bias = {t: _broadcast(builder, x["bias"], biases + 4 * t, _I32) for t in tokens} if FLIPPED or mins else {}
    part = {(t, v): bias[t] if FLIPPED else ir.Constant(_W, None) for t, v in keys}
    multiply = dots.dot_vnni if FLIPPED else dots.signed_dot
    for k in range(width // 4):
        w = {v: _at(builder, panel, k * ROWS * 4 + v * 64, builders.B64.llvm) for v in vectors}
        for t in tokens:
            q = builder.bitcast(_broadcast(builder, x["q"], t * 32 + k * 4, _I32), builders.B64.llvm)
            for v in vectors:
                part[t, v] = multiply(builder, part[t, v], w[v], q)
    scale = {v: _at(builder, scales, v * 64, _V) for v in vectors}
    low = {v: _at(builder, mins, v * 64, _V) for v in vectors} if mins else {}
    result = {}
    for t in tokens:
        d = _broadcast(builder, x["bias"], SCALES + 4 * t, _F32)
        for v in vectors:
            result[t, v] = _fma(builder, builder.sitofp(part[t, v], _V), builder.fmul(scale[v], d), sums[t, v])
        if mins:
            shift = builder.fmul(builder.sitofp(bias[t], _V), d)
            for v in vectors:
                result[t, v] = _fma(builder, low[v], shift, result[t, v])
    return result


def multiply(tokens: int, group: int, has_min: bool) -> Any:
    """multiply(x, panel, scales, mins, blocks, tile): tile float32 [TOKENS][ROWS] += 32 * blocks columns' products, for
    the first `tokens` tokens. `mins` must be divided by -128: they meet the biases, which are -128 * sums.
    """
    per_block = 32 // group

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, panel, scales, mins, blocks, tile = args
        for part_tokens, vectors in _PARTS:
            keys = [(t, v) for t in part_tokens for v in vectors if t < tokens]

            def body(i: Any, sums: Any, keys: Any = keys) -> Any:
                block = builder.add(x, builder.mul(i, _I64(BLOCK)))
                weights = builder.add(panel, builder.mul(i, _I64(32 * ROWS)))
                step = builder.mul(i, _I64(per_block * ROWS * 4))
                s, m = builder.add(scales, step), builder.add(mins, step)
                for half in range(per_block):
                    columns = {"q": builder.add(block, _I64(half * group)), "bias": block}
                    biases = BIASES if group == 32 else HALF_BIASES + half * TOKENS * 4
                    w = builder.add(weights, _I64(half * group * ROWS))
                    here = [builder.add(a, _I64(half * ROWS * 4)) for a in (s, m)]
                    sums = _step(builder, columns, w, here[0], here[1] if has_min else None, keys, sums, biases, group)
                return sums

            if keys:
                _part(builder, tile, blocks, keys, body)
        return context.get_dummy_value()

    @intrinsic
    def multiply_tile(typing, x, panel, scales, mins, blocks, tile):
        return types.void(*[types.int64] * 6), codegen

    return multiply_tile


def multiply_floats(tokens: int) -> Any:
    """multiply(x, panel, steps, tile): tile += 8 * steps columns' products, for the first `tokens` tokens."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, panel, steps, tile = args
        for part_tokens, vectors in _PARTS:
            keys = [(t, v) for t in part_tokens for v in vectors if t < tokens]

            def body(i: Any, sums: Any, keys: Any = keys, vectors: Any = vectors) -> Any:
                block = builder.add(x, builder.mul(i, _I64(TOKENS * 32)))
                weights = builder.add(panel, builder.mul(i, _I64(8 * ROWS * 4)))
                for k in range(8):
                    w = {v: _at(builder, weights, (k * ROWS + v * 16) * 4, _V) for v in vectors}
                    values = {t: _broadcast(builder, block, (t * 8 + k) * 4, _F32) for t in {t for t, _ in keys}}
                    sums = {(t, v): _fma(builder, w[v], values[t], sums[t, v]) for t, v in keys}
                return sums

            if keys:
                _part(builder, tile, steps, keys, body)
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


def transposer(columns: int, *, quants: bool) -> Any:
    """transpose(source, stride, target, step), all in bytes: 16 rows, each of `columns` times four bytes and readable
    for 64, become columns of 16 times four bytes. quants: int8, as panels hold them.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, stride, target, step = args
        rows = [_at(builder, builder.add(source, builder.mul(stride, _I64(r))), 0, _W) for r in range(16)]
        for j, column in enumerate(_transposed(builder, rows)[:columns]):
            value = builder.xor(column, builders.constant(_I32, [0x80808080] * 16)) if quants and FLIPPED else column
            where = builder.add(target, builder.mul(step, _I64(j)))
            builder.store(value, builder.inttoptr(where, _W.as_pointer()), align=4)
        return context.get_dummy_value()

    @intrinsic
    def function(typing, source, stride, target, step):
        return types.void(*[types.int64] * 4), codegen

    return function
