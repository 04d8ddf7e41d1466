"""Turn queries and keys by their positions, and put keys and values into the cache."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import STORE, KeysValues, put_key, put_value
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, START, cell_of, segment_at
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.norm_codes import NO_NORM, NORM_CODES
from powerinfer_cli.kernels.simd import f32, float_of, i64
from powerinfer_cli.model import NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms

__all__ = ["Angles", "rope"]

Floats = npt.NDArray[np.float32]
_LAYER = NORM_CODES[NormKind.LAYER]
_AFTER, _VALUES = 16, 32  # added to a norm's code: it comes after turning; values are normed as well
OP = operands(
    "state q q_stride k k_stride v v_stride cos sin pairs apart step q_norm k_norm q_norm_step k_norm_step eps norm "
    "group n_head_kv head_dim n_ctx origin keys key_scales values value_scales store_key store_value"
)


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
    k: Floats | None,
    v: Floats | None,
    cache: KeysValues,
    angles: Angles | None,
    style: RopeStyle | None,
    norms: HeadNorms[Floats] | None = None,
) -> Operation:
    """Turn the heads of q in place; store turned k, and v, in the cells of their positions, where these are here.

    q, k, v float32 [T, at least heads * head_dim] (k, and v where it is normed, are changed too). Norms of each head by
    itself come before, or after; those over all heads are not for here. Without angles nothing is turned; without k
    and v nothing is stored.
    """
    shape = cache.shape
    cos, sin, n_rot = (angles.cos, angles.sin, 2 * angles.cos.shape[1]) if angles else (None, None, 0)
    apart, step = style.steps(n_rot) if style else (0, 1)
    return Operation.of(
        _rope,
        OP,
        state=state,
        q=q,
        q_stride=q.strides[0],
        k=k,
        k_stride=0 if k is None else k.strides[0],
        v=v,
        v_stride=0 if v is None else v.strides[0],
        cos=cos,
        sin=sin,
        pairs=n_rot // 2,
        apart=apart,
        step=step,
        **_norms(norms, shape.head_dim),
        group=shape.n_head // shape.n_head_kv,
        n_head_kv=shape.n_head_kv,
        head_dim=shape.head_dim,
        n_ctx=shape.n_ctx,
        origin=cache.origin,
        keys=cache.k,
        key_scales=cache.k_scales,
        values=cache.v,
        value_scales=cache.v_scales,
        store_key=STORE[cache.type_k].address,
        store_value=STORE[cache.type_v].address,
    )


def _norms(norms: HeadNorms[Floats] | None, head_dim: int) -> dict[str, Operand]:
    """Weights of queries and keys, from one head's to the next in each, epsilon, what is done and when."""
    found: dict[str, Operand] = {"q_norm": None, "k_norm": None, "q_norm_step": 0, "k_norm_step": 0}
    if norms is None:
        return found | {"eps": 0.0, "norm": NO_NORM}
    for name, one in (("q_norm", norms.q), ("k_norm", norms.k)):
        found |= {name: one.weight, f"{name}_step": 0 if one.weight.size == head_dim else head_dim}
    code = NORM_CODES[norms.q.kind] | _AFTER * norms.after_rope | _VALUES * norms.values
    return found | {"eps": float(norms.q.eps), "norm": code}


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
def _norm_value(x, n, eps):
    square = np.float32(0.0)
    for i in range(n):
        square += x[i] * x[i]
    scale = np.float32(1.0) / np.sqrt(square / np.float32(n) + eps)
    for i in range(n):
        x[i] *= scale


@helper
def _turn(x, cos, sin, pairs, apart, step):
    for i in range(pairs):
        a, b = x[i * step], x[i * step + apart]
        x[i * step] = a * cos[i] - b * sin[i]
        x[i * step + apart] = a * sin[i] + b * cos[i]


@helper
def _norm_and_turn(op, x, weight, cos, sin):
    code, after = op[OP.norm] % _AFTER, op[OP.norm] & _AFTER
    n, eps = op[OP.head_dim], float_of(op[OP.eps])
    if code and not after:
        _norm_head(code, x, weight, n, eps)
    _turn(x, cos, sin, op[OP.pairs], op[OP.apart], op[OP.step])
    if code and after:
        _norm_head(code, x, weight, n, eps)


@helper
def _blocks_of(segment):
    """Blocks of 16 positions that a segment's tokens lie in."""
    return (segment[PAST] + segment[COUNT] - 1) // 16 - segment[PAST] // 16 + 1


@kernel(OPERATION, "rope")
def _rope(op_address, worker):
    op = i64(op_address)
    state, pairs, group, n_head_kv, head_dim = (
        i64(op[OP.state]),
        op[OP.pairs],
        op[OP.group],
        op[OP.n_head_kv],
        op[OP.head_dim],
    )
    n_ctx, keys, values = op[OP.n_ctx], op[OP.keys], op[OP.values]
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
            c, s = f32(op[OP.cos] + t * pairs * 4), f32(op[OP.sin] + t * pairs * 4)
            for j in range(head * group, (head + 1) * group):
                x = f32(op[OP.q] + t * op[OP.q_stride] + j * head_dim * 4)
                _norm_and_turn(op, x, f32(op[OP.q_norm] + j * op[OP.q_norm_step] * 4), c, s)
            if not op[OP.k]:
                continue
            key = op[OP.k] + t * op[OP.k_stride] + head * head_dim * 4
            value = op[OP.v] + t * op[OP.v_stride] + head * head_dim * 4
            _norm_and_turn(op, f32(key), f32(op[OP.k_norm] + head * op[OP.k_norm_step] * 4), c, s)
            if op[OP.norm] & _VALUES:
                _norm_value(f32(value), head_dim, float_of(op[OP.eps]))
            cell = cell_of(segment, n_past + t - first) - op[OP.origin]
            if cell < 0:
                continue
            put_key(op[OP.store_key], key, head_dim, n_ctx, keys, op[OP.key_scales], head, cell)
            put_value(op[OP.store_value], value, head_dim, n_ctx, values, op[OP.value_scales], head, cell)
