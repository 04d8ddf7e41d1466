"""The numbers of a synthetic model: one layer's matrices, of which every layer has its own shuffle.

The gate matrix is U @ V: low rank, plus a constant for each neuron along coordinate 0 of the residual stream, which
keeps one value in every layer. So (a) a neuron fires as often as its constant says: rates follow a power law with the
wanted mean; and (b) an exact predictor exists: with fc1 = [V; -V] and fc2 = [U, -U], fc2 @ relu(fc1 @ x) = U @ V @ x,
since relu(a) - relu(-a) = a. (RMS norm divides by a positive number, which changes no sign.)
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK", "Matrix", "Shape", "activation_rates", "base_matrices", "rates_of_layer", "shuffle"]

CONSTANT = 4.0  # coordinate 0 of the residual stream
CHUNK = 64  # rows made and encoded at a time: they stay in the processor's cache
GROUPS = (256, 32)  # neurons that keep together in a shuffle: a block of a quantised row of ffn_down

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama, and how many of its neurons are idle. `rank` is half of the predictor's hidden size."""

    embd: int = 2048
    ff: int = 5632
    layers: int = 22
    heads: int = 32
    kv: int = 4
    rank: int = 256
    vocab: int = 32000
    ctx: int = 2048
    sparsity: float = 0.9
    seed: int = 0

    @property
    def kv_rows(self) -> int:
        return self.embd // self.heads * self.kv

    @property
    def group(self) -> int:
        return next((size for size in GROUPS if self.ff % size == 0), 1)


@dataclass(frozen=True)
class Matrix:
    """rows x columns numbers, made CHUNK rows at a time so that a large one is never in memory as float32."""

    rows: int
    columns: int
    chunks: Callable[[], Iterator[Floats]]


def base_matrices(shape: Shape) -> dict[str, Matrix]:
    """By GGUF's names without `.weight`; those of a layer without `blk.N.`, in the order before any shuffle."""
    e, ff = shape.embd, shape.ff
    u, v = _gate_factors(shape)
    down_t = _whole(_normal(shape, "ffn_down_t", ff, e, 0.3 * ff**-0.5, column_0=0.0))
    return {
        "token_embd": _normal(shape, "token_embd", shape.vocab, e, 1.0, column_0=CONSTANT),
        "output": _normal(shape, "output", shape.vocab, e, e**-0.5),
        "attn_q": _normal(shape, "attn_q", e, e, e**-0.5),
        "attn_k": _normal(shape, "attn_k", shape.kv_rows, e, e**-0.5),
        "attn_v": _normal(shape, "attn_v", shape.kv_rows, e, e**-0.5),
        "attn_output": _normal(shape, "attn_output", e, e, 0.1 * e**-0.5, row_0=0.0),
        "ffn_gate": Matrix(ff, e, lambda: (part @ v for part in _cut(u))),
        "ffn_up": _normal(shape, "ffn_up", ff, e, e**-0.5),
        "ffn_down": Matrix(e, ff, lambda: _cut(np.ascontiguousarray(down_t.T))),
        "ffn_down_t": Matrix(ff, e, lambda: _cut(down_t)),
        "fc1": Matrix(2 * shape.rank, e, lambda: _cut(np.concatenate([v, -v]))),
        "fc2": Matrix(ff, 2 * shape.rank, lambda: (np.concatenate([part, -part], axis=1) for part in _cut(u))),
    }


def activation_rates(neurons: int, sparsity: float) -> npt.NDArray[np.float64]:
    """How often each neuron fires, a power law within [1e-4, 0.98], highest first; the mean is 1 - sparsity."""
    rank = np.arange(1, neurons + 1) / (0.02 * neurons)
    low, high = 0.0, 5.0
    for _ in range(60):
        exponent = (low + high) / 2
        rates = np.clip(rank**-exponent, 1e-4, 0.98)
        low, high = (exponent, high) if rates.mean() > 1 - sparsity else (low, exponent)
    return rates


def shuffle(shape: Shape, layer: int, what: str) -> npt.NDArray[np.int64]:
    """A layer's order of neurons [ff]. Whole groups move, so that blocks of a quantised ffn_down move with them."""
    groups = _rng(shape, f"{what} of layer {layer}").permutation(shape.ff // shape.group)
    return (groups[:, None] * shape.group + np.arange(shape.group)).ravel()


def rates_of_layer(shape: Shape, layer: int) -> npt.NDArray[np.float64]:
    """How often each neuron of a layer fires, [ff]."""
    return _rates(shape)[shuffle(shape, layer, "gate")]


def _rates(shape: Shape) -> npt.NDArray[np.float64]:
    return _rng(shape, "rates").permutation(activation_rates(shape.ff, shape.sparsity))


def _gate_factors(shape: Shape) -> tuple[Floats, Floats]:
    """U [ff, rank] and V [rank, embd]."""
    v = _whole(_normal(shape, "V", shape.rank, shape.embd, shape.embd**-0.5, column_0=0.0))
    v[0] = 0
    v[0, 0] = 1
    u = _whole(_normal(shape, "U", shape.ff, shape.rank, max(shape.rank - 1, 1) ** -0.5))
    u[:, 0] = [NormalDist().inv_cdf(float(rate)) / CONSTANT for rate in _rates(shape)]
    return u, v


def _rng(shape: Shape, name: str) -> np.random.Generator:
    """Each tensor has its own stream: the sparse model and its dense twin hold the same numbers."""
    return np.random.default_rng([shape.seed, zlib.crc32(name.encode())])


def _normal(
    shape: Shape,
    name: str,
    rows: int,
    columns: int,
    scale: float,
    *,
    column_0: float | None = None,
    row_0: float | None = None,
) -> Matrix:
    def chunks() -> Iterator[Floats]:
        rng = _rng(shape, name)
        for start in range(0, rows, CHUNK):
            part = rng.standard_normal((min(CHUNK, rows - start), columns), dtype=np.float32) * np.float32(scale)
            if column_0 is not None:
                part[:, 0] = column_0
            if row_0 is not None and start == 0:
                part[0] = row_0
            yield part

    return Matrix(rows, columns, chunks)


def _cut(x: Floats) -> Iterator[Floats]:
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


def _whole(matrix: Matrix) -> Floats:
    return np.concatenate(list(matrix.chunks()))
