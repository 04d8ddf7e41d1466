"""Turn queries and keys by their positions, and put keys and values into the cache."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import STORE, KeysValues, put_key, put_value
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, START, cell_of, segment_at
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.kernels.jit.team import FIRST, OPERATION, take
from powerinfer_cli.kernels.simd import f32, float_of, i64
from powerinfer_cli.model import RopeStyle

__all__ = ["Angles", "rope"]

Floats = npt.NDArray[np.float32]


class Angles:
    """cos and sin of the angles of a batch's positions, [T, n_rot / 2]; filled in before each batch."""

    def __init__(self, n_tokens: int, frequencies: npt.NDArray[np.float64], magnitude: float) -> None:
        """frequencies: the angle per position of each pair, [n_rot / 2]; magnitude: what cos and sin are scaled by."""
        self.frequencies, self.magnitude = frequencies, magnitude
        self.cos, self.sin = (np.zeros((n_tokens, len(frequencies)), np.float32) for _ in range(2))

    def fill(self, positions: npt.NDArray[np.int64]) -> None:
        """For the batch's positions, [T]."""
        n_tokens, angles = len(positions), positions[:, None] * self.frequencies
        self.cos[:n_tokens] = self.magnitude * np.cos(angles)
        self.sin[:n_tokens] = self.magnitude * np.sin(angles)


def rope(
    state: npt.NDArray[np.int64],
    q: Floats,
    k: Floats,
    v: Floats,
    cache: KeysValues,
    angles: Angles | None,
    style: RopeStyle | None,
    q_norm: Floats | None = None,
    k_norm: Floats | None = None,
    eps: float = 0.0,
) -> Operation:
    """Turn the heads of q in place; store turned k, and v, in the cells of their positions.

    q, k, v float32 [T, at least heads * head_dim] (k is changed too). Where there are q_norm and k_norm [head_dim],
    every head is normalised by its root mean square first. Without angles nothing is turned.
    """
    shape = cache.shape
    cos, sin, n_rot = (angles.cos, angles.sin, 2 * angles.cos.shape[1]) if angles else (None, None, 0)
    apart, step = (1, 2) if style is RopeStyle.INTERLEAVED else (n_rot // 2, 1)
    rows = (q, q.strides[0], k, k.strides[0], v, v.strides[0])
    turn = (cos, sin, n_rot // 2, apart, step, q_norm, k_norm, float(eps))
    sizes = (shape.n_head // shape.n_head_kv, shape.n_head_kv, shape.head_dim, shape.n_ctx)
    stores = (cache.k, cache.k_scales, cache.v, cache.v_scales)
    puts = (STORE[cache.type_k].address, STORE[cache.type_v].address)
    return Operation(_rope, (state, *rows, *turn, *sizes, *stores, *puts))


@helper
def _norm_head(x, weight, n, eps):
    square = np.float32(0.0)
    for i in range(n):
        square += x[i] * x[i]
    scale = np.float32(1.0) / np.sqrt(square / np.float32(n) + eps)
    for i in range(n):
        x[i] = x[i] * scale * weight[i]


@helper
def _turn(x, cos, sin, pairs, apart, step):
    for i in range(pairs):
        a, b = x[i * step], x[i * step + apart]
        x[i * step] = a * cos[i] - b * sin[i]
        x[i * step + apart] = a * sin[i] + b * cos[i]


@helper
def _blocks_of(segment):
    """Blocks of 16 positions that a segment's tokens lie in."""
    return (segment[PAST] + segment[COUNT] - 1) // 16 - segment[PAST] // 16 + 1


@kernel(OPERATION, "rope")
def _rope(op_address, worker):
    op = i64(op_address)
    state, q, q_stride, k, k_stride = i64(op[FIRST]), op[FIRST + 1], op[FIRST + 2], op[FIRST + 3], op[FIRST + 4]
    v, v_stride, cos, sin = op[FIRST + 5], op[FIRST + 6], op[FIRST + 7], op[FIRST + 8]
    pairs, apart, step = op[FIRST + 9], op[FIRST + 10], op[FIRST + 11]
    q_norm, k_norm, eps = op[FIRST + 12], op[FIRST + 13], float_of(op[FIRST + 14])
    group, n_head_kv, head_dim, n_ctx = op[FIRST + 15], op[FIRST + 16], op[FIRST + 17], op[FIRST + 18]
    keys, k_scales, values, v_scales = op[FIRST + 19], op[FIRST + 20], op[FIRST + 21], op[FIRST + 22]
    store_key, store_value = op[FIRST + 23], op[FIRST + 24]
    while True:
        # A piece: a kv head, and those tokens of a segment whose keys share a block: no two threads write to one line.
        piece, i = take(op), 0
        segment = segment_at(state, 0)
        pieces = _blocks_of(segment) * n_head_kv
        while piece >= pieces:
            piece, i = piece - pieces, i + 1
            if i >= state[N_SEGMENTS]:
                return
            segment = segment_at(state, i)
            pieces = _blocks_of(segment) * n_head_kv
        n_past, first = segment[PAST], segment[START]
        head, block = piece % n_head_kv, n_past // 16 + piece // n_head_kv
        begin, end = max(block * 16 - n_past, 0), min(block * 16 + 16 - n_past, segment[COUNT])
        for t in range(first + begin, first + end):
            c, s = f32(cos + t * pairs * 4), f32(sin + t * pairs * 4)
            for j in range(head * group, (head + 1) * group):
                x = f32(q + t * q_stride + j * head_dim * 4)
                if q_norm:
                    _norm_head(x, f32(q_norm), head_dim, eps)
                _turn(x, c, s, pairs, apart, step)
            key, value = k + t * k_stride + head * head_dim * 4, v + t * v_stride + head * head_dim * 4
            x = f32(key)
            if k_norm:
                _norm_head(x, f32(k_norm), head_dim, eps)
            _turn(x, c, s, pairs, apart, step)
            cell = cell_of(segment, n_past + t - first)
            put_key(store_key, key, head_dim, n_ctx, keys, k_scales, head, cell)
            put_value(store_value, value, head_dim, n_ctx, values, v_scales, head, cell)
