"""Turn queries and keys by their positions, and put keys and values into the cache."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import STORE, KeysValues, put_key, put_value
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, START, cell_of, segment_at
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation
from powerinfer_cli.kernels.jit.team import FIRST, OPERATION, take
from powerinfer_cli.kernels.simd import f32, float_of, i64
from powerinfer_cli.model import NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms

__all__ = ["Angles", "rope"]

Floats = npt.NDArray[np.float32]
_NONE, _RMS, _LAYER = range(3)
# The operation's numbers, behind the state.
_Q, _Q_STRIDE, _K, _K_STRIDE, _V, _V_STRIDE = range(FIRST + 1, FIRST + 7)
_COS, _SIN, _PAIRS, _APART, _STEP = range(FIRST + 7, FIRST + 12)
_Q_NORM, _K_NORM, _Q_NORM_STEP, _K_NORM_STEP, _EPS, _NORM, _AFTER = range(FIRST + 12, FIRST + 19)
_GROUP, _N_HEAD_KV, _HEAD_DIM, _N_CTX = range(FIRST + 19, FIRST + 23)
_KEYS, _KEY_SCALES, _VALUES, _VALUE_SCALES, _STORE_KEY, _STORE_VALUE = range(FIRST + 23, FIRST + 29)


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
    norms: HeadNorms[Floats] | None = None,
) -> Operation:
    """Turn the heads of q in place; store turned k, and v, in the cells of their positions.

    q, k, v float32 [T, at least heads * head_dim] (k is changed too). Norms of each head by itself come before, or
    after; those over all heads are not for here. Without angles nothing is turned.
    """
    shape = cache.shape
    cos, sin, n_rot = (angles.cos, angles.sin, 2 * angles.cos.shape[1]) if angles else (None, None, 0)
    apart, step = (1, 2) if style is RopeStyle.INTERLEAVED else (n_rot // 2, 1)
    rows = (q, q.strides[0], k, k.strides[0], v, v.strides[0])
    turn = (cos, sin, n_rot // 2, apart, step)
    sizes = (shape.n_head // shape.n_head_kv, shape.n_head_kv, shape.head_dim, shape.n_ctx)
    stores = (cache.k, cache.k_scales, cache.v, cache.v_scales)
    puts = (STORE[cache.type_k].address, STORE[cache.type_v].address)
    return Operation(_rope, (state, *rows, *turn, *_norms(norms, shape.head_dim), *sizes, *stores, *puts))


def _norms(norms: HeadNorms[Floats] | None, head_dim: int) -> tuple[Operand, ...]:
    """Weights of queries and keys, from one head's to the next in each, epsilon, what is done, and when."""
    if norms is None:
        return None, None, 0, 0, 0.0, _NONE, False
    q, k = norms.q, norms.k
    steps = (0 if len(one.weight) == head_dim else head_dim for one in (q, k))
    code = _RMS if q.kind is NormKind.RMS else _LAYER
    return q.weight, k.weight, *steps, float(q.eps), code, norms.after_rope


@helper
def _norm_head(code, x, weight, n, eps):
    mean, square = np.float32(0.0), np.float32(0.0)
    if code == _LAYER:
        for i in range(n):
            mean += x[i]
        mean = mean / np.float32(n)
    for i in range(n):
        square += (x[i] - mean) * (x[i] - mean)
    scale = np.float32(1.0) / np.sqrt(square / np.float32(n) + eps)
    for i in range(n):
        x[i] = (x[i] - mean) * scale * weight[i]


@helper
def _turn(x, cos, sin, pairs, apart, step):
    for i in range(pairs):
        a, b = x[i * step], x[i * step + apart]
        x[i * step] = a * cos[i] - b * sin[i]
        x[i * step + apart] = a * sin[i] + b * cos[i]


@helper
def _norm_and_turn(op, x, weight, cos, sin):
    code, n, eps, after = op[_NORM], op[_HEAD_DIM], float_of(op[_EPS]), op[_AFTER]
    if code and not after:
        _norm_head(code, x, weight, n, eps)
    _turn(x, cos, sin, op[_PAIRS], op[_APART], op[_STEP])
    if code and after:
        _norm_head(code, x, weight, n, eps)


@helper
def _blocks_of(segment):
    """Blocks of 16 positions that a segment's tokens lie in."""
    return (segment[PAST] + segment[COUNT] - 1) // 16 - segment[PAST] // 16 + 1


@kernel(OPERATION, "rope")
def _rope(op_address, worker):
    op = i64(op_address)
    state, pairs, group, n_head_kv, head_dim = i64(op[FIRST]), op[_PAIRS], op[_GROUP], op[_N_HEAD_KV], op[_HEAD_DIM]
    n_ctx, keys, values = op[_N_CTX], op[_KEYS], op[_VALUES]
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
            c, s = f32(op[_COS] + t * pairs * 4), f32(op[_SIN] + t * pairs * 4)
            for j in range(head * group, (head + 1) * group):
                x = f32(op[_Q] + t * op[_Q_STRIDE] + j * head_dim * 4)
                _norm_and_turn(op, x, f32(op[_Q_NORM] + j * op[_Q_NORM_STEP] * 4), c, s)
            key = op[_K] + t * op[_K_STRIDE] + head * head_dim * 4
            value = op[_V] + t * op[_V_STRIDE] + head * head_dim * 4
            _norm_and_turn(op, f32(key), f32(op[_K_NORM] + head * op[_K_NORM_STEP] * 4), c, s)
            cell = cell_of(segment, n_past + t - first)
            put_key(op[_STORE_KEY], key, head_dim, n_ctx, keys, op[_KEY_SCALES], head, cell)
            put_value(op[_STORE_VALUE], value, head_dim, n_ctx, values, op[_VALUE_SCALES], head, cell)
