"""What Qwen 3.5's experts have in a layer beside them: a gated delta net or gated attention, and a shared expert.

A head of the delta nets is half as wide as one of attention, and there are twice as many of values, as in the released
35B-A3B. Decays are drawn as they are before training (Dao and Gu 2024): exp(A_log) from 0 to 16, steps from 0.001 to
0.1.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import gguf
import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType
from scripts.synthetic.file import Entry

__all__ = ["INTERVAL", "add_metadata", "parts"]

INTERVAL, LENGTH = 4, 4  # every so-many-th layer has attention; inputs of a convolution
ROTATED = 4  # of a head, one in so many is turned

Matrix = Callable[..., Entry]


class Sizes(Protocol):
    """What of a shape counts here."""

    embd: int
    ff: int
    heads: int
    kv: int
    head_dim: int


def add_metadata(writer: gguf.GGUFWriter, shape: Sizes) -> None:
    """The keys that other mixtures have not."""
    rotated = shape.head_dim // ROTATED
    arch = writer.arch
    writer.add_rope_dimension_count(rotated)
    third = rotated // 6
    writer.add_rope_dimension_sections([rotated // 2 - 2 * third, third, third, 0])
    writer.add_expert_shared_feed_forward_length(shape.ff)
    writer.add_uint32(f"{arch}.full_attention_interval", INTERVAL)
    writer.add_ssm_conv_kernel(LENGTH)
    writer.add_ssm_state_size(shape.head_dim // 2)
    writer.add_ssm_group_count(shape.heads)
    writer.add_ssm_time_step_rank(2 * shape.heads)
    writer.add_ssm_inner_size(shape.heads * shape.head_dim)


def parts(shape: Sizes, layer: int, matrix: Matrix, rng: np.random.Generator) -> Iterator[Entry]:
    """All but the experts. matrix: makes one, given a layer's prefix, a name, rows, columns and the numbers' size."""
    at, e, ff = f"blk.{layer}.", shape.embd, shape.ff
    yield _numbers(f"{at}attn_norm.weight", np.ones(e))
    yield _numbers(f"{at}post_attention_norm.weight", np.ones(e))
    yield from _attention(shape, at, matrix) if (layer + 1) % INTERVAL == 0 else _delta_net(shape, at, matrix, rng)
    for name in ("gate", "up"):
        yield matrix(at, f"ffn_{name}_shexp", ff, e, e**-0.5)
    yield matrix(at, "ffn_down_shexp", e, ff, 0.3 * ff**-0.5, still=True)
    yield _numbers(f"{at}ffn_gate_inp_shexp.weight", rng.standard_normal(e) * e**-0.5)


def _attention(shape: Sizes, at: str, matrix: Matrix) -> Iterator[Entry]:
    e, n_q, n_kv = shape.embd, shape.heads * shape.head_dim, shape.kv * shape.head_dim
    for name, rows in (("attn_q", 2 * n_q), ("attn_k", n_kv), ("attn_v", n_kv)):
        yield matrix(at, name, rows, e, e**-0.5)
    yield matrix(at, "attn_output", e, n_q, 0.1 * n_q**-0.5, still=True)
    for name in ("q", "k"):
        yield _numbers(f"{at}attn_{name}_norm.weight", np.ones(shape.head_dim))


def _delta_net(shape: Sizes, at: str, matrix: Matrix, rng: np.random.Generator) -> Iterator[Entry]:
    e, dim, heads = shape.embd, shape.head_dim // 2, 2 * shape.heads
    inner, keys = heads * dim, 2 * shape.heads * dim
    yield matrix(at, "attn_qkv", keys + inner, e, e**-0.5)
    yield matrix(at, "attn_gate", inner, e, e**-0.5)
    for name in ("ssm_alpha", "ssm_beta"):
        yield matrix(at, name, heads, e, e**-0.5)
    yield _numbers(f"{at}ssm_conv1d.weight", rng.standard_normal((keys + inner, LENGTH)) * LENGTH**-0.5)
    steps = 10 ** rng.uniform(-3, -1, heads)
    yield _numbers(f"{at}ssm_dt.bias", np.log(np.expm1(steps)))
    yield _numbers(f"{at}ssm_a", -rng.uniform(0, 16, heads))
    yield _numbers(f"{at}ssm_norm.weight", np.ones(dim))
    yield matrix(at, "ssm_out", e, inner, 0.1 * inner**-0.5, still=True)


def _numbers(name: str, values: npt.NDArray[np.float64]) -> Entry:
    return Entry(name, GGMLType.F32, values.shape, partial(np.asarray, values, np.float32))
