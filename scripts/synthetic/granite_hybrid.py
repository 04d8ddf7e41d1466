"""A synthetic Granite 4 H as a file: Mamba-2 in all layers but one of ten, which attends. What it writes is noise.

Decays and steps are drawn as they are before training (Dao and Gu 2024): -A from 1 to 16, steps from 0.001 to 0.1. All
layers have the same numbers, each its own bytes.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType
from scripts.synthetic.file import Bytes, Entry, add_vocabulary, write_file
from scripts.synthetic.types import FILE_TYPES, encode, tensor_type
from scripts.synthetic.weights import CHUNK

__all__ = ["HybridShape", "write_hybrid"]

LENGTH = 4  # inputs of a convolution


@dataclass(frozen=True)
class HybridShape:
    """As Granite 4 H micro's, of 40 layers. attention: which of the layers attend; others have `mamba_heads` heads of
    `mamba_dim`, whose states have `state` rows.
    """

    embd: int = 2048
    ff: int = 8192
    layers: int = 5
    heads: int = 32
    kv: int = 8
    mamba_heads: int = 64
    mamba_dim: int = 64
    state: int = 128
    attention: tuple[int, ...] = (4,)
    vocab: int = 32000
    ctx: int = 16384
    seed: int = 0

    @property
    def inner(self) -> int:
        return self.mamba_heads * self.mamba_dim


def write_hybrid(path: Path, shape: HybridShape, file_type: str) -> None:
    """Write the file."""
    write_file(path, "granitehybrid", partial(_add_metadata, shape=shape, file_type=file_type), _all(shape, file_type))


def _add_metadata(writer: gguf.GGUFWriter, shape: HybridShape, file_type: str) -> None:
    writer.add_name("synthetic-granite-hybrid")
    writer.add_context_length(shape.ctx)
    writer.add_embedding_length(shape.embd)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv([shape.kv if i in shape.attention else 0 for i in range(shape.layers)])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.embd // shape.heads)
    writer.add_rope_scaling_finetuned(False)
    writer.add_attention_scale((shape.embd // shape.heads) ** -0.5)
    writer.add_embedding_scale(1.0)
    writer.add_residual_scale(1.0)
    writer.add_logit_scale(1.0)
    writer.add_expert_count(0)
    writer.add_ssm_conv_kernel(LENGTH)
    writer.add_ssm_state_size(shape.state)
    writer.add_ssm_group_count(1)
    writer.add_ssm_inner_size(shape.inner)
    writer.add_ssm_time_step_rank(shape.mamba_heads)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(FILE_TYPES[file_type])
    add_vocabulary(writer, shape.vocab, shape.seed)


def _all(shape: HybridShape, file_type: str) -> Iterator[Entry]:
    e = shape.embd

    @cache
    def encoded(name: str, rows: int, columns: int, scale: float, kind: GGMLType) -> Bytes:
        rng, parts = _rng(shape, name), []
        for start in range(0, rows, CHUNK):
            part = rng.standard_normal((min(CHUNK, rows - start), columns), dtype=np.float32)
            parts.append(encode(part * np.float32(scale), kind))
        return np.concatenate(parts)

    def matrix(prefix: str, name: str, rows: int, columns: int, scale: float) -> Entry:
        kind = tensor_type(f"{prefix}{name}.weight", columns, shape.layers, file_type)
        return Entry(
            f"{prefix}{name}.weight", kind, (rows, columns), partial(encoded, name, rows, columns, scale, kind)
        )

    yield matrix("", "token_embd", shape.vocab, e, 1.0)
    yield matrix("", "output", shape.vocab, e, e**-0.5)
    yield _numbers("output_norm.weight", np.ones(e))
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield _numbers(f"{at}attn_norm.weight", np.ones(e))
        yield _numbers(f"{at}ffn_norm.weight", np.ones(e))
        yield from _attention(shape, at, matrix) if layer in shape.attention else _mamba(shape, at, matrix)
        for name in ("ffn_gate", "ffn_up"):
            yield matrix(at, name, shape.ff, e, e**-0.5)
        yield matrix(at, "ffn_down", e, shape.ff, 0.3 * shape.ff**-0.5)


def _attention(shape: HybridShape, at: str, matrix: Callable[..., Entry]) -> Iterator[Entry]:
    e, n_kv = shape.embd, shape.embd // shape.heads * shape.kv
    for name, rows in (("attn_q", e), ("attn_k", n_kv), ("attn_v", n_kv)):
        yield matrix(at, name, rows, e, e**-0.5)
    yield matrix(at, "attn_output", e, e, 0.1 * e**-0.5)


def _mamba(shape: HybridShape, at: str, matrix: Callable[..., Entry]) -> Iterator[Entry]:
    rng, heads, inner = _rng(shape, f"mixer {at}"), shape.mamba_heads, shape.inner
    channels = inner + 2 * shape.state
    yield matrix(at, "ssm_in", inner + channels + heads, shape.embd, shape.embd**-0.5)
    yield matrix(at, "ssm_out", shape.embd, inner, 0.1 * inner**-0.5)
    yield _numbers(f"{at}ssm_conv1d.weight", rng.standard_normal((channels, LENGTH)) * LENGTH**-0.5)
    yield _numbers(f"{at}ssm_conv1d.bias", np.zeros(channels))
    yield _numbers(f"{at}ssm_dt.bias", np.log(np.expm1(10 ** rng.uniform(-3, -1, heads))))
    yield _numbers(f"{at}ssm_a", -rng.uniform(1, 16, (heads, 1)))
    yield _numbers(f"{at}ssm_d", np.ones((heads, 1)))
    yield _numbers(f"{at}ssm_norm.weight", np.ones((1, inner)))


def _numbers(name: str, values: npt.NDArray[np.float64]) -> Entry:
    return Entry(name, GGMLType.F32, values.shape, partial(np.asarray, values, np.float32))


def _rng(shape: HybridShape, name: str) -> np.random.Generator:
    return np.random.default_rng([shape.seed, zlib.crc32(name.encode())])
