"""Every weight format's kernels against gguf's dequantisation and plain sums, on each set of instructions."""

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, dequantize
from powerinfer_cli.kernels.formats import FORMATS, SLACK, Format, padded, record_bytes
from powerinfer_cli.kernels.jit import kernel, types
from powerinfer_cli.kernels.simd import (
    dot_signed,
    dot_unsigned,
    f32,
    i8,
    i32,
    load64,
    load_f32,
    load_i32,
    store_f16,
    store_i32,
    u16,
)
from tests.helpers.kernels.weight_rows import at_the_edge, gguf_rows

pytestmark = pytest.mark.rungs

BLOCKS = [kind for kind, f in FORMATS.items() if not f.is_float]
FLOATS = [kind for kind, f in FORMATS.items() if f.is_float]
WIDTHS = {32: (32, 64, 96, 480, 512, 544, 1024, 1568), 256: (256, 512, 768, 1280)}
FLOAT_WIDTHS = (1, 15, 16, 17, 63, 64, 65, 200, 1027)
CASES = [(kind, n) for kind in BLOCKS for n in WIDTHS[BLOCK[kind][0]]]
FLOAT_CASES = [(kind, n) for kind in FLOATS for n in FLOAT_WIDTHS]
NAN_BYTE = 0xFF  # float16, bfloat16 and float32 of these bytes are NaN


def test_formats_are_those_that_have_kernels() -> None:
    names = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4"
    assert {kind.name for kind in FORMATS} == set(names.split())
    assert all(f.type is kind for kind, f in FORMATS.items())


def repacked(f: Format, row: npt.NDArray[np.uint8], n: int) -> npt.NDArray[np.uint8]:
    """A row in its kernels' layout with NaN behind it, rearranged from memory that ends where the row does."""
    source = at_the_edge(row)
    if f.repack is None:
        return source
    size = f.row_bytes(n)
    room = np.full(size + SLACK, NAN_BYTE, np.uint8)
    f.repack.call(source.ctypes.data, room.ctypes.data, n)
    assert (room[size:] == NAN_BYTE).all()
    return room


def in_lanes(x: npt.NDArray[np.generic], group: int, at_once: int) -> npt.NDArray[np.generic]:
    """[P] -> the order of chunks: of each of 16 groups the first `at_once` numbers, of each the next..."""
    return x.reshape(-1, 16, group // at_once, at_once).swapaxes(1, 2).ravel()


def in_groups(y: npt.NDArray[np.generic], group: int) -> npt.NDArray[np.generic]:
    """The inverse of in_lanes with single numbers."""
    return y.reshape(-1, group, 16).swapaxes(1, 2).ravel()


def record(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """A quantised vector, and the numbers that it stands for."""
    n, p = len(x), padded(len(x))
    blocks = np.zeros(p, np.float32)
    blocks[:n] = x
    blocks = blocks.reshape(-1, 32)
    d = np.abs(blocks).max(axis=1) / np.float32(127)
    q = np.rint(blocks / np.where(d > 0, d, 1)[:, None]).astype(np.int8)
    made = np.zeros(record_bytes(n), np.uint8)
    made[:p] = q.reshape(-1).view(np.uint8)
    made[p : p + p // 8].view(np.float32)[:] = d
    made[p + p // 8 : p + p // 4].view(np.int32)[:] = q.sum(axis=1, dtype=np.int32)
    made[p + p // 4 : p + p // 2].view(np.int32)[:] = q.reshape(-1, 16).sum(axis=1, dtype=np.int32)
    made[p * 3 // 2 : p * 5 // 2] = in_lanes(q, 32, 4).view(np.uint8)
    made[p * 5 // 2 :] = in_lanes(q, 16, 4).view(np.uint8)
    return made, (q * d[:, None].astype(np.float64)).reshape(-1)[:n]


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("kind", "n"), CASES)
def test_unpack(kind: GGMLType, n: int, extreme: bool) -> None:
    f = FORMATS[kind]
    raw = gguf_rows(kind, 1, n, seed=n, extreme=extreme)
    expected = dequantize(raw, kind)[0].astype(np.float64)
    row = repacked(f, raw[0], n)
    for begin, end in ranges(n):
        size = -(-(end - begin) // 64) * 64
        q = np.full(size + 64, 77, np.int8)
        scales, mins = np.full((2, (end - begin) // f.group + 1), np.nan, np.float32)
        f.unpack.call(row.ctypes.data, n, begin, end, q.ctypes.data, scales.ctypes.data, mins.ctypes.data)
        assert (q[size:] == 77).all()
        assert np.isnan(scales[-1])
        assert np.isnan(mins[-1])
        products = q[: end - begin].astype(np.float64) * scales[:-1].astype(np.float64).repeat(f.group)
        shift = mins[:-1].astype(np.float64).repeat(f.group) if f.has_min else np.zeros(end - begin)
        # One rounding each for the scale, the minimum and gguf's two steps: a quant off by one would be off by 1/255.
        allowed = 4 * 2.0**-24 * (np.abs(products) + np.abs(shift)) + 1e-44
        assert (np.abs(products + shift - expected[begin:end]) <= allowed).all()


def ranges(n: int) -> list[tuple[int, int]]:
    """Parts of a row, from a multiple of 256 to one, or to the row's end."""
    found = [(0, n), (0, 256), (256, 512), (256, n), (512, n)]
    return [(begin, end) for begin, end in found if begin < end <= n]


def dot(f: Format, row: npt.NDArray[np.uint8], vector: npt.NDArray[np.uint8], n: int) -> float:
    weights = repacked(f, row, n)
    return float(f.dot.call(weights.ctypes.data, vector.ctypes.data, n, 0))


@pytest.mark.parametrize(("kind", "n"), CASES + FLOAT_CASES)
def test_dot(kind: GGMLType, n: int) -> None:
    f = FORMATS[kind]
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    raw = gguf_rows(kind, 3, n, seed=n + 1)
    vector, values = (at_the_edge(x.view(np.uint8)), x.astype(np.float64)) if f.is_float else record(x)
    for weights, row in zip(dequantize(raw, kind).astype(np.float64), raw, strict=True):
        found = dot(f, row, vector, n)
        assert abs(found - weights @ values) <= 2e-6 * np.abs(weights * values).sum()


@pytest.mark.parametrize("kind", BLOCKS)
def test_dot_takes_the_largest_inputs(kind: GGMLType) -> None:
    """All of x at its largest, each weight at any of its levels: no product may overflow on its way."""
    f, n = FORMATS[kind], 1024
    raw = gguf_rows(kind, 8, n, seed=3)
    for sign in (1, -1):
        vector, values = record(np.full(n, sign, np.float32))
        for weights, row in zip(dequantize(raw, kind).astype(np.float64), raw, strict=True):
            found = dot(f, row, vector, n)
            assert abs(found - weights @ values) <= 2e-6 * np.abs(weights * values).sum()


@pytest.mark.parametrize(("kind", "n"), CASES + FLOAT_CASES)
def test_axpy(kind: GGMLType, n: int) -> None:
    f = FORMATS[kind]
    raw = gguf_rows(kind, 4, n, seed=n + 2)
    rows = [repacked(f, row, n) for row in raw]
    weights, factors = dequantize(raw, kind).astype(np.float64), np.array([0.75, -2, 0.1, 0], np.float32)
    start = np.zeros(padded(n), np.float32)
    start[:n] = np.random.default_rng(n).standard_normal(n)
    for name, used in (("axpy", 1), ("axpy4", 4)):
        y = in_lanes(start, f.group, 1) if f.group else start.copy()
        if name == "axpy":
            f.axpy.call(rows[0].ctypes.data, n, factors[0], y.ctypes.data)
        else:
            addresses = np.array([row.ctypes.data for row in rows] + [0, 1, -64, 1 << 40], np.int64)
            f.axpy4.call(addresses.ctypes.data, n, factors.ctypes.data, y.ctypes.data)
        found = in_groups(y, f.group) if f.group else y
        terms = factors[:used, None].astype(np.float64) * weights[:used]
        limit = 1e-6 * (np.abs(start[:n]) + np.abs(terms).sum(axis=0).max())
        assert (np.abs(found[:n] - start[:n] - terms.sum(axis=0)) <= limit).all()
        if not f.group:
            np.testing.assert_array_equal(found[n:], 0)


@pytest.mark.parametrize(("kind", "n"), FLOAT_CASES)
def test_unpack_floats(kind: GGMLType, n: int) -> None:
    f = FORMATS[kind]
    raw = gguf_rows(kind, 1, n, seed=n)
    row = repacked(f, raw[0], n)
    for begin, end in [(0, n), *ranges(n)]:
        found = np.full(end - begin + 1, np.nan, np.float32)
        f.unpack.call(row.ctypes.data, n, begin, end, found.ctypes.data, 0, 0)
        np.testing.assert_array_equal(found[:-1], dequantize(raw, kind)[0, begin:end])
        assert np.isnan(found[-1])


def test_every_float16_is_widened_exactly() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    found = np.empty(65536, np.float32)
    FORMATS[GGMLType.F16].unpack.call(halves.ctypes.data, 65536, 0, 65536, found.ctypes.data, 0, 0)
    with np.errstate(invalid="ignore"):  # ARM's instruction remarks upon signalling NaN
        wanted = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, wanted)


@kernel(types.void(types.int64, types.int64, types.int64), "test_store_f16")
def narrow(x, y, n):
    for i in range(0, n, 16):
        store_f16(u16(y), i, load_f32(f32(x), i))


def test_float16_is_rounded_to_the_nearest() -> None:
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves[-1] = 65536  # as if the float16 went on
    middles = ((halves[1:] + halves[:-1]) / 2).astype(np.float32)
    x = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, np.float32(1e9)), -middles])
    x = np.concatenate([x, np.array([np.inf, -np.inf, 1e30, -1e-30, 0.0, -0.0], np.float32)])
    x = np.resize(x, -(-len(x) // 16) * 16)
    found = np.empty(len(x), np.uint16)
    narrow.call(x.ctypes.data, found.ctypes.data, len(x))
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_array_equal(found, x.astype(np.float16).view(np.uint16))
    nan = np.full(16, np.nan, np.float32)
    narrow.call(nan.ctypes.data, found.ctypes.data, 16)
    assert np.isnan(found[:16].view(np.float16)).all()


@kernel(types.void(*[types.int64] * 4), "test_dot_unsigned")
def unsigned(sums, w, x, out):
    store_i32(i32(out), 0, dot_unsigned(load_i32(i32(sums), 0), load64(i8(w), 0), load64(i8(x), 0)))


@kernel(types.void(*[types.int64] * 4), "test_dot_signed")
def signed(sums, w, x, out):
    store_i32(i32(out), 0, dot_signed(load_i32(i32(sums), 0), load64(i8(w), 0), load64(i8(x), 0)))


@pytest.mark.parametrize(
    ("multiply", "weights", "inputs"),
    [
        (unsigned, (0, 1, 126, 127), (-128, -127, -1, 0, 127)),
        (signed, (-128, -127, -1, 0, 1, 127), (-127, -1, 0, 127)),
    ],
)
def test_products_of_extreme_bytes(multiply, weights, inputs) -> None:
    rng = np.random.default_rng(0)
    sums = rng.integers(-(2**30), 2**30, 16, dtype=np.int32)
    cases = [(w, x) for w in weights for x in inputs] + [(None, None)] * 20
    for w_value, x_value in cases:
        w = np.full(64, w_value, np.int8) if w_value is not None else rng.choice(weights, 64).astype(np.int8)
        x = np.full(64, x_value, np.int8) if x_value is not None else rng.choice(inputs, 64).astype(np.int8)
        found = np.full(16, -1, np.int32)
        multiply.call(sums.ctypes.data, w.ctypes.data, x.ctypes.data, found.ctypes.data)
        products = (w.astype(np.int32) * x.astype(np.int32)).reshape(16, 4).sum(axis=1)
        np.testing.assert_array_equal(found, sums + products)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_grow_little(kind: GGMLType) -> None:
    size, n_bytes = BLOCK[kind]
    assert FORMATS[kind].row_bytes(2048) <= 1.04 * (2048 // size * n_bytes)
