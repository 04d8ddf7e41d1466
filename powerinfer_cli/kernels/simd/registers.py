"""Tiles: several F32x16 held in registers as one value, for products of a few rows' numbers with a few vectors.

A tile of R rows and B columns has R * B vectors, row by row. Its size is part of its type, so that loops over it are
unrolled as they are compiled. Sizes given to functions are constants.

In NumPy, a tile is float32 [R, B, 16], and columns are [B, 16]:
  columns_*:        columns = numbers[offset + stride * np.arange(B)[:, None] + np.arange(16)]
  scaled_by_pairs:  columns * scales[offset + np.arange(B) // 2, None]
  outer:            tile + numbers[offset + stride * np.arange(R)][:, None, None] * columns
  add_scaled:       tile + part * scales             # scales [B, 16]
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from powerinfer_cli.kernels.simd import builders

__all__ = [
    "add_scaled",
    "columns_f16",
    "columns_f32",
    "columns_i8",
    "load_tile",
    "outer",
    "scaled_by_pairs",
    "store_tile",
    "zero_tile",
]

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_V = builders.F32x16.llvm


class Tile(types.Type):
    """n vectors."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.llvm = ir.ArrayType(_V, n)
        super().__init__(name=f"Tile({n})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Tile) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def _collect(builder: Any, tile: Tile, vectors: list[Any]) -> Any:
    result = ir.Constant(tile.llvm, ir.Undefined)
    for i, vector in enumerate(vectors):
        result = builder.insert_value(result, vector, i)
    return result


def _parts(builder: Any, value: Any, n: int) -> list[Any]:
    return [builder.extract_value(value, i) for i in range(n)]


@intrinsic(prefer_literal=True)
def zero_tile(typing: Any, n: Any) -> Any:
    """n vectors of zeros."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    tile = Tile(n.literal_value)
    return tile(n), lambda context, builder, sig, args: ir.Constant(tile.llvm, None)


def _columns(name: str, doc: str, raw: ir.Type, widen: Callable[[Any, Any], Any]) -> Any:
    def function(typing: Any, n: Any, pointer: Any, offset: Any, stride: Any) -> Any:
        if not isinstance(n, types.IntegerLiteral):
            return None
        tile = Tile(n.literal_value)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, pointer, at, stride = args
            vectors = []
            for _ in range(tile.n):
                vectors.append(widen(builder, builders.loaded(builder, pointer, at, raw)))
                at = builder.add(at, stride)
            return _collect(builder, tile, vectors)

        return tile(n, pointer, types.int64, types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(prefer_literal=True)(function)


columns_f32 = _columns("columns_f32", "n vectors of float32, so many numbers apart.", _V, lambda b, v: v)
columns_f16 = _columns(
    "columns_f16", "n vectors of float16, widened, so many numbers apart.", ir.VectorType(_I16, 16), builders.from_half
)
columns_i8 = _columns(
    "columns_i8",
    "n vectors of int8, widened, so many numbers apart.",
    builders.B16.llvm,
    lambda b, v: b.sitofp(b.sext(v, builders.I32x16.llvm), _V),
)


@intrinsic
def scaled_by_pairs(typing: Any, columns: Any, scales: Any, offset: Any) -> Any:
    """Columns 2i and 2i + 1 times the i-th float16 from an offset of a uint16 pointer on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors = []
        for i, vector in enumerate(_parts(builder, args[0], columns.n)):
            bits = builders.loaded(builder, args[1], builder.add(args[2], _I64(i // 2)), _I16)
            scale = builders.from_half(builder, builders.splatted(builder, bits, builders.Vector(_I16, 16)))
            vectors.append(builder.fmul(vector, scale))
        return _collect(builder, columns, vectors)

    return columns(columns, scales, types.int64), codegen


@intrinsic
def outer(typing: Any, tile: Any, columns: Any, numbers: Any, offset: Any, stride: Any) -> Any:
    """tile[r, b] + numbers[offset + r * stride] * columns[b]; numbers a float32 pointer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, (_, columns_value, numbers, at, stride) = _parts(builder, args[0], tile.n), args
        vectors = _parts(builder, columns_value, columns.n)
        for r in range(tile.n // columns.n):
            number = builders.splatted(builder, builder.load(builder.gep(numbers, [at]), align=4), builders.F32x16)
            for b, vector in enumerate(vectors):
                i = r * columns.n + b
                sums[i] = builders.fused(builder, vector, number, sums[i])
            at = builder.add(at, stride)
        return _collect(builder, tile, sums)

    return tile(tile, columns, numbers, types.int64, types.int64), codegen


@intrinsic
def add_scaled(typing: Any, tile: Any, part: Any, scales: Any) -> Any:
    """tile[r, b] + part[r, b] * scales[b]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, parts = _parts(builder, args[0], tile.n), _parts(builder, args[1], tile.n)
        factors = _parts(builder, args[2], scales.n)
        sums = [
            builders.fused(builder, p, factors[i % scales.n], s)
            for i, (p, s) in enumerate(zip(parts, sums, strict=True))
        ]
        return _collect(builder, tile, sums)

    return tile(tile, part, scales), codegen


@intrinsic(prefer_literal=True)
def load_tile(typing: Any, rows: Any, columns: Any, pointer: Any, offset: Any, stride: Any) -> Any:
    """A tile from memory: float32, its rows `stride` numbers apart, the columns of a row side by side."""
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    n_columns = columns.literal_value
    tile = Tile(rows.literal_value * n_columns)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, _, pointer, offset, stride = args
        places = _places(builder, tile.n, n_columns, offset, stride)
        return _collect(builder, tile, [builders.loaded(builder, pointer, at, _V) for at in places])

    return tile(rows, columns, pointer, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_tile(typing: Any, tile: Any, columns: Any, pointer: Any, offset: Any, stride: Any) -> Any:
    """A tile to memory, laid out as for `load_tile`."""
    if not isinstance(columns, types.IntegerLiteral):
        return None
    n_columns = columns.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, _, pointer, offset, stride = args
        places = _places(builder, tile.n, n_columns, offset, stride)
        for vector, at in zip(_parts(builder, value, tile.n), places, strict=True):
            builders.stored(builder, vector, pointer, at)
        return context.get_dummy_value()

    return types.void(tile, columns, pointer, types.int64, types.int64), codegen


def _places(builder: Any, n: int, n_columns: int, offset: Any, stride: Any) -> list[Any]:
    rows = [builder.add(offset, builder.mul(stride, _I64(r))) for r in range(n // n_columns)]
    return [builder.add(row, _I64(16 * b)) for row in rows for b in range(n_columns)]
