"""Dot products of bytes, and of pairs of int16: the one place where the rungs differ.

VNNI multiplies unsigned by signed bytes, NEON signed ones, and adds four products to a sum of 32 bits in one step; with
i8mm NEON multiplies two rows' eight bytes by two tokens' in one. The other rungs add pairs of products in 16 bits,
which would overflow if they were large, and widen such sums in a second step.
"""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from powerinfer_cli.kernels.formats.kinds import offset_of
from powerinfer_cli.kernels.jit import RUNG, Products, Rung
from powerinfer_cli.kernels.simd.builders import B64, I8, I16, I32, I64, I32x16, call, constant, joined, part_of, rolled

__all__ = [
    "dot_signed",
    "dot_unsigned",
    "dotted",
    "group_products",
    "pair_columns",
    "paired_products",
    "pairs_dotted",
    "start_of",
]

_LARGEST = 127  # of an input's absolute values
_W16, _I32x4 = ir.VectorType(I16, 32), ir.VectorType(I32, 4)
_SMMLA = "llvm.aarch64.neon.smmla.v4i32.v16i8"
Key = tuple[int, int]


_STEPS = {  # instructions, and how many bytes they take
    Rung.VNNI: ("llvm.x86.avx512.vpdpbusd.512", 64),
    Rung.AVX_VNNI: ("llvm.x86.avx512.vpdpbusd.256", 32),
    Rung.I8MM: ("llvm.aarch64.neon.sdot.v4i32.v16i8", 16),
    Rung.NEON: ("llvm.aarch64.neon.sdot.v4i32.v16i8", 16),
}


def _dot_at_once(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    """sums + w . x in groups of four; x signed, w 0..255 or, where the rung's products are signed, -128..127."""
    name, n = _STEPS[RUNG]
    # Of x86's two signatures the older, which newer LLVMs understand as well.
    lanes = ir.VectorType(I8, n) if RUNG.is_arm else ir.VectorType(I32, n // 4)
    parts = []
    for at in range(0, 64, n):
        a, b = (builder.bitcast(part_of(builder, v, at, n), lanes) for v in (w, x))
        part = part_of(builder, sums, at // 4, n // 4)
        parts.append(call(builder, name, part.type, part, a, b))
    return joined(builder, parts)


def _pairs_avx2(builder: Any, w: Any, x: Any) -> Any:
    """w . x in pairs, 16 bits each; w 0..127 (or 128 with |x| <= 127)."""
    v16 = ir.VectorType(I16, 16)
    parts = [
        call(builder, "llvm.x86.avx2.pmadd.ub.sw", v16, *(part_of(builder, v, at, 32) for v in (w, x)))
        for at in (0, 32)
    ]
    return joined(builder, parts)


def _pairs_any(builder: Any, w: Any, x: Any, *, signed: bool = False) -> Any:
    """The same, but the pairs are bytes 0 and 2, 1 and 3. `signed`: w -128..127, |x| <= 127."""
    eight = constant(I16, [8] * 32)
    w, x = builder.bitcast(w, _W16), builder.bitcast(x, _W16)
    shift = builder.ashr if signed else builder.lshr
    even = builder.mul(shift(builder.shl(w, eight), eight), builder.ashr(builder.shl(x, eight), eight))
    return builder.add(even, builder.mul(shift(w, eight), builder.ashr(x, eight)))


_pairs = _pairs_avx2 if RUNG is Rung.AVX2 else _pairs_any


def _widened(builder: Any, pairs: Any) -> Any:
    """Sums of two neighbours each. LLVM sees the one instruction that x86 has for it."""
    return _neighbours(builder, builder.sext(pairs, ir.VectorType(I32, 32)))


def _neighbours(builder: Any, wide: Any) -> Any:
    even, odd = (builder.shuffle_vector(wide, wide, constant(I32, range(first, 32, 2))) for first in (0, 1))
    return builder.add(even, odd)


def pairs_dotted(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    """sums + w . x, two int16 a lane."""
    i = I32x16.llvm
    w, x = builder.bitcast(w, i), builder.bitcast(x, i)
    if RUNG is Rung.VNNI:
        return call(builder, "llvm.x86.avx512.vpdpwssd.512", i, sums, w, x)
    wide = (builder.sext(builder.bitcast(v, _W16), ir.VectorType(I32, 32)) for v in (w, x))
    return builder.add(sums, _neighbours(builder, builder.mul(*wide)))


def _unsigned_dot(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    if RUNG.products is not Products.PAIRS:
        return _dot_at_once(builder, sums, w, x)
    return builder.add(sums, _widened(builder, _pairs(builder, w, x)))


def _signed_dot(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    if RUNG.products is Products.SIGNED:
        return _dot_at_once(builder, sums, w, x)
    if RUNG is Rung.ANY:
        return builder.add(sums, _widened(builder, _pairs_any(builder, w, x, signed=True)))
    zero = ir.Constant(w.type, None)
    negative = builder.icmp_signed("<", w, zero)
    size, turned = (builder.select(negative, builder.sub(zero, v), v) for v in (w, x))
    return _unsigned_dot(builder, sums, size, turned)


def dotted(builder: Any, sums: Any, w: Any, x: Any, signed: bool) -> Any:
    """sums + w . x, four bytes a lane; w as `dot_signed` or `dot_unsigned` take it."""
    return (_signed_dot if signed else _unsigned_dot)(builder, sums, w, x)


def _dotter(name: str, doc: str, build: Callable[..., Any]) -> Any:
    def function(typing: Any, sums: Any, w: Any, x: Any) -> Any:
        return I32x16(I32x16, B64, B64), lambda context, builder, sig, args: build(builder, *args)

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


dot_unsigned = _dotter("dot_unsigned", "sums + w . x, four bytes a lane; w within 0..127, x signed.", _unsigned_dot)
dot_signed = _dotter("dot_signed", "sums + w . x, four bytes a lane; w signed, x within -127..127.", _signed_dot)


def start_of(builder: Any, bias: Any, bits: int, has_min: bool) -> Any:
    """Where sums of `group_products` start to undo the offset. bias: -128 * the sum of the inputs."""
    offset = offset_of(bits, has_min)
    if offset == 0:
        return ir.Constant(I32x16.llvm, None)
    return builder.ashr(bias, constant(I32, [8 - offset.bit_length()] * 16))


def group_products(
    builder: Any, starts: dict[Key, Any], steps: int, weights: Callable[..., Any], inputs: Callable[..., Any], bits: int
) -> dict[Key, Any]:
    """starts[t, v] + the sum over k < steps of weights(v, k) . inputs(t, k), four bytes a lane, for all keys (t, v).

    weights: quants plus `offset_of` them, which are of so many bits, unsigned unless the rung's products are signed.
    inputs: within -127..127.
    """
    if RUNG.products is Products.PAIRS:
        return _narrow_products(builder, starts, steps, weights, inputs, bits)
    sums = dict(starts)
    for k in map(I64, range(steps)):
        w = {v: weights(v, k) for v in _vectors(starts)}
        for t in _tokens(starts):
            x = inputs(t, k)
            for v, value in w.items():
                sums[t, v] = _dot_at_once(builder, sums[t, v], value, x)
    return sums


def paired_products(
    builder: Any, keys: Iterable[Key], columns: int, weights: Callable[..., Any], inputs: Callable[..., Any]
) -> dict[Key, Any]:
    """The sum over so many columns of a panel's weights . inputs for all keys (t, v), by products of matrices.

    weights(v, k): vector v at step k of four columns; the even steps have eight columns of rows 0..7, the odd ones of
    rows 8..15, as `pair_columns` leaves them. inputs(t, k): 16 bytes of token t from column 16 * k on. Tokens are even
    in number.
    """
    tokens, vectors = sorted({t for t, _ in keys}), sorted({v for _, v in keys})
    pairs = list(zip(tokens[::2], tokens[1::2], strict=True))
    sums = {(p, v, r): ir.Constant(_I32x4, None) for p in pairs for v in vectors for r in range(8)}
    low, high = (constant(I32, [*range(at, at + 8), *range(at + 16, at + 24)]) for at in (0, 8))
    for k in range(columns // 16):
        x = {p: [inputs(t, k) for t in p] for p in pairs}
        for half, lanes in enumerate((low, high)):
            both = {p: builder.shuffle_vector(*x[p], lanes) for p in pairs}
            for v in vectors:
                for part in range(2):
                    w = weights(v, I64(4 * k + 2 * half + part))
                    for r in range(4):
                        rows = part_of(builder, w, 16 * r, 16)
                        for p in pairs:
                            key = p, v, 4 * part + r
                            sums[key] = call(builder, _SMMLA, _I32x4, sums[key], rows, both[p])
    result = {}
    for p in pairs:
        for v in vectors:
            for i, t in enumerate(p):
                lanes = constant(I32, [i, i + 2, i + 4, i + 6])
                found = [builder.shuffle_vector(sums[p, v, r], sums[p, v, r + 1], lanes) for r in range(0, 8, 2)]
                result[t, v] = joined(builder, found)
    return result


@intrinsic
def pair_columns(typing: Any, panel: Any, stride: Any, n: Any) -> Any:
    """Of 16 rows of a panel, n times eight columns: two steps of four columns become one of rows 0..7 and one of rows
    8..15, eight columns each. stride: bytes between steps.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        panel, stride, n = args
        first = constant(I32, [lane for row in range(8) for lane in (row, row + 16)])
        second = constant(I32, [lane for row in range(8, 16) for lane in (row, row + 16)])
        with cgutils.for_range(builder, n) as loop:
            at = builder.add(panel, builder.mul(loop.index, builder.mul(stride, I64(2))))
            places = [builder.inttoptr(one, I32x16.llvm.as_pointer()) for one in (at, builder.add(at, stride))]
            a, b = (builder.load(place, align=4) for place in places)
            for place, lanes in zip(places, (first, second), strict=True):
                builder.store(builder.shuffle_vector(a, b, lanes), place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def _tokens(keys: dict[Key, Any]) -> list[int]:
    return sorted({t for t, _ in keys})


def _vectors(keys: dict[Key, Any]) -> list[int]:
    return sorted({v for _, v in keys})


def _narrow_products(
    builder: Any, starts: dict[Key, Any], steps: int, weights: Callable[..., Any], inputs: Callable[..., Any], bits: int
) -> dict[Key, Any]:
    """Sums of 16 bits for as many steps as they hold. Bytes are too large for it: first their low halves, then the
    high ones, whose products count 16 times.
    """
    sums, halves = dict(starts), bits == 8
    used = 4 if halves else bits
    at_once = min(steps, 32767 // (2 * _LARGEST * ((1 << used) - 1)))
    for shift in (0, 4) if halves else (0,):
        for begin in range(0, steps, at_once):

            def step(k: Any, narrow: dict[Key, Any], begin: int = begin, shift: int = shift) -> dict[Key, Any]:
                k = builder.add(k, I64(begin))
                w = {v: weights(v, k) for v in _vectors(starts)}
                if halves:
                    w = {v: _half_of_bytes(builder, value, shift) for v, value in w.items()}
                result = {}
                for t in _tokens(starts):
                    x = inputs(t, k)
                    for v, value in w.items():
                        result[t, v] = builder.add(narrow[t, v], _pairs(builder, value, x))
                return result

            zeros = {key: ir.Constant(_W16, None) for key in starts}
            for key, pairs in rolled(builder, min(at_once, steps - begin), zeros, step).items():
                wide = builder.shl(_widened(builder, pairs), constant(I32, [shift] * 16))
                sums[key] = builder.add(sums[key], wide)
    return sums


def _half_of_bytes(builder: Any, value: Any, shift: int) -> Any:
    return builder.and_(builder.lshr(value, constant(B64.lane, [shift] * 64)), constant(B64.lane, [15] * 64))
