"""Models' sizes without their weights: files with all keys and tensors' sizes, whose numbers are holes on the disk.

What is placed, and how fast that is predicted to be, depends on no weight. Such a file is as long as the model's, and
takes some MB.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np

from powerinfer_cli.gguf_io import GGMLType
from scripts.synthetic import model
from scripts.synthetic.experts import ExpertShape, add_metadata, entries
from scripts.synthetic.file import Bytes, Entry, add_vocabulary, write_file
from scripts.synthetic.types import FILE_TYPES, tensor_type
from scripts.synthetic.weights import Shape

__all__ = ["SHAPES", "write_shape"]

CONTEXT = 131072  # positions at most


@dataclass(frozen=True)
class GlmShape(ExpertShape):
    """lead: its first layers, which have `dense` neurons and no experts."""

    lead: int = 1
    dense: int = 10944


QWEN3 = ExpertShape(vocab=151936, ctx=CONTEXT)
GPT_OSS = ExpertShape(
    "gpt-oss",
    embd=2880,
    ff=2880,
    layers=24,
    heads=64,
    kv=8,
    head_dim=64,
    experts=32,
    chosen=4,
    vocab=201088,
    ctx=CONTEXT,
)
GLM = GlmShape(
    "glm4moe",
    embd=4096,
    ff=1408,
    layers=46,
    heads=96,
    kv=8,
    head_dim=128,
    experts=128,
    chosen=8,
    vocab=151552,
    ctx=CONTEXT,
)
QWEN3_235B = replace(QWEN3, embd=4096, ff=1536, layers=94, heads=64)
GLM_355B = replace(GLM, embd=5120, ff=1536, layers=92, experts=160, lead=3, dense=12288)
LLAMA_70B = Shape(embd=8192, ff=28672, layers=80, heads=64, kv=8, vocab=128256, ctx=CONTEXT)
LLAMA_405B = replace(LLAMA_70B, embd=16384, ff=53248, layers=126, heads=128)
SHAPES: dict[str, tuple[ExpertShape | Shape, str]] = {
    "qwen3-30b-a3b": (QWEN3, "Q4_K_M"),
    "gpt-oss-20b": (GPT_OSS, "MXFP4"),
    "glm-4.5-air": (GLM, "Q4_K_M"),
    "llama-3.3-70b": (LLAMA_70B, "Q4_K_M"),
    "gpt-oss-120b": (replace(GPT_OSS, layers=36, experts=128), "MXFP4"),
    "qwen3-235b-a22b": (QWEN3_235B, "Q4_K_M"),
    "glm-4.5-355b-a32b": (GLM_355B, "Q4_K_M"),
    "llama-3.1-405b": (LLAMA_405B, "Q4_K_M"),
}
"""By name: sizes, and the type of the file that people have of it."""


def write_shape(path: Path, name: str) -> None:
    """Write the file."""
    shape, file_type = SHAPES[name]
    if isinstance(shape, Shape):
        metadata = partial(model.add_metadata, shape=shape, file_type=file_type, dense=True)
        write_file(path, "llama", metadata, _llama(shape, file_type), holes=True)
    elif isinstance(shape, GlmShape):
        write_file(path, shape.arch, partial(_add_glm_metadata, shape, file_type), _glm(shape, file_type), holes=True)
    else:
        write_file(
            path,
            shape.arch,
            partial(add_metadata, shape=shape, file_type=file_type),
            entries(shape, file_type),
            holes=True,
        )


def _add_glm_metadata(shape: GlmShape, file_type: str, writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(shape.ctx)
    writer.add_embedding_length(shape.embd)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.dense)
    writer.add_expert_feed_forward_length(shape.ff)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.chosen)
    writer.add_expert_shared_count(1)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(1.0)
    writer.add_leading_dense_block_count(shape.lead)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim // 2)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(FILE_TYPES[file_type])
    add_vocabulary(writer, shape.vocab, shape.seed)


def _llama(shape: Shape, file_type: str) -> Iterator[Entry]:
    e, n_kv = shape.embd, shape.embd // shape.heads * shape.kv

    def matrix(name: str, *dims: int) -> Entry:
        return Entry(f"{name}.weight", tensor_type(f"{name}.weight", dims[-1], shape.layers, file_type), dims, _nothing)

    yield matrix("token_embd", shape.vocab, e)
    yield matrix("output", shape.vocab, e)
    yield Entry("output_norm.weight", GGMLType.F32, (e,), _nothing)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            yield Entry(f"{at}{name}.weight", GGMLType.F32, (e,), _nothing)
        for name, rows in (("q", e), ("k", n_kv), ("v", n_kv), ("output", e)):
            yield matrix(f"{at}attn_{name}", rows, e)
        yield from _ffn(matrix, at, "", (shape.ff, e))


def _glm(shape: GlmShape, file_type: str) -> Iterator[Entry]:
    e, n_q, n_kv = shape.embd, shape.heads * shape.head_dim, shape.kv * shape.head_dim

    def matrix(name: str, *dims: int) -> Entry:
        return Entry(f"{name}.weight", tensor_type(f"{name}.weight", dims[-1], shape.layers, file_type), dims, _nothing)

    def numbers(name: str, *dims: int) -> Entry:
        return Entry(name, GGMLType.F32, dims, _nothing)

    yield matrix("token_embd", shape.vocab, e)
    yield matrix("output", shape.vocab, e)
    yield numbers("output_norm.weight", e)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield numbers(f"{at}attn_norm.weight", e)
        yield numbers(f"{at}post_attention_norm.weight", e)
        for name, rows in (("q", n_q), ("k", n_kv), ("v", n_kv)):
            yield matrix(f"{at}attn_{name}", rows, e)
            yield numbers(f"{at}attn_{name}.bias", rows)
        yield matrix(f"{at}attn_output", e, n_q)
        if layer < shape.lead:
            yield from _ffn(matrix, at, "", (shape.dense, e))
            continue
        yield numbers(f"{at}ffn_gate_inp.weight", shape.experts, e)
        yield numbers(f"{at}exp_probs_b.bias", shape.experts)
        yield from _ffn(matrix, at, "_exps", (shape.experts, shape.ff, e))
        yield from _ffn(matrix, at, "_shexp", (shape.ff, e))


def _ffn(matrix: Callable[..., Entry], at: str, of: str, dims: tuple[int, ...]) -> Iterator[Entry]:
    *first, rows, columns = dims
    yield matrix(f"{at}ffn_gate{of}", *dims)
    yield matrix(f"{at}ffn_up{of}", *dims)
    yield matrix(f"{at}ffn_down{of}", *first, columns, rows)


def _nothing() -> Bytes:
    return np.empty((0, 0), np.uint8)
