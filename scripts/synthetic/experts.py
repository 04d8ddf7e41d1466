"""A synthetic mixture of experts as a file, Qwen 3's, 3.5's or gpt-oss's: what it writes is noise, what is routed
is not.

How often an expert is chosen follows a power law, rank ** -skew: its logit has a constant beside noise. The constant
comes from the residual stream: a token of topic t has `CONSTANT` at coordinate t and zeros at the other topics', which
no layer changes, and each topic has its own ranks of experts. Tokens of a topic are neighbours by number, and the head
prefers the topic of its input, so text stays with a topic, and a prompt that goes over to another one changes which
experts are hot.

Every expert of every layer has its own shuffle of the same rows, which are quantised once.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType
from scripts.synthetic import qwen35
from scripts.synthetic.file import Bytes, Entry, add_vocabulary, write_file
from scripts.synthetic.types import FILE_TYPES, encode, tensor_type
from scripts.synthetic.weights import CHUNK

__all__ = ["ARCHITECTURES", "ExpertShape", "add_metadata", "entries", "router_rows", "topic_of", "write_experts"]

ARCHITECTURES = ("qwen3moe", "gpt-oss", "qwen35moe")
CONSTANT = 4.0
WINDOW = 128  # of every other layer of gpt-oss
STAY = 6.0  # what a token of the same topic gets more of the head, in widths of its noise

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExpertShape:
    """`ff` is an expert's. skew: 0 is an even use of experts. arch: of `ARCHITECTURES`."""

    arch: str = "qwen3moe"
    embd: int = 2048
    ff: int = 768
    layers: int = 48
    heads: int = 32
    kv: int = 4
    head_dim: int = 128
    experts: int = 128
    chosen: int = 8
    vocab: int = 32000
    ctx: int = 4096
    skew: float = 0.5
    topics: int = 1
    seed: int = 0


def topic_of(shape: ExpertShape, token: int) -> int:
    """Of a token by its number."""
    return token * shape.topics // shape.vocab


def router_rows(shape: ExpertShape, layer: int) -> Floats:
    """[experts, embd]. x has length sqrt(embd), as it is normed."""
    rng = _rng(shape, f"router {layer}")
    rows = rng.standard_normal((shape.experts, shape.embd), dtype=np.float32)
    rows /= np.float32(math.sqrt(shape.embd - CONSTANT**2))  # what x's other numbers have, if nothing is added to them
    for topic in range(shape.topics):
        rows[rng.permutation(shape.experts), topic] = _constants(shape) / CONSTANT
    return rows


@cache
def _constants(shape: ExpertShape) -> npt.NDArray[np.float64]:
    """[experts], by rank: with them beside normal noise of width 1, the largest are drawn as often as they shall be."""
    rng, count = np.random.default_rng(0), 4000
    wanted = np.arange(1, shape.experts + 1) ** -shape.skew
    for _ in range(20):  # nothing is chosen more than always
        wanted = np.minimum(wanted * shape.chosen / wanted.sum(), 0.98)
    noise, constants = rng.standard_normal((count, shape.experts)), np.zeros(shape.experts)
    for _ in range(40):
        chosen = np.argpartition(-(noise + constants), shape.chosen - 1, axis=1)[:, : shape.chosen]
        found = np.bincount(chosen.ravel(), minlength=shape.experts) / count
        constants += 0.5 * (np.log(wanted) - np.log(found + 0.1 / count))
    return constants


def write_experts(path: Path, shape: ExpertShape, file_type: str) -> None:
    """Write the file."""
    write_file(path, shape.arch, partial(add_metadata, shape=shape, file_type=file_type), entries(shape, file_type))


def add_metadata(writer: gguf.GGUFWriter, shape: ExpertShape, file_type: str) -> None:
    """All keys."""
    writer.add_name(f"synthetic-experts-{shape.skew:g}-{shape.topics}")
    writer.add_context_length(shape.ctx)
    writer.add_embedding_length(shape.embd)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff * shape.chosen)
    writer.add_expert_feed_forward_length(shape.ff)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.chosen)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.arch == "qwen35moe":
        qwen35.add_metadata(writer, shape)
    else:
        writer.add_rope_dimension_count(shape.head_dim)
    if shape.arch == "gpt-oss":
        writer.add_sliding_window(WINDOW)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(FILE_TYPES[file_type])
    add_vocabulary(writer, shape.vocab, shape.seed)


def entries(shape: ExpertShape, file_type: str) -> Iterator[Entry]:
    """All tensors."""
    e = shape.embd

    @cache
    def encoded(name: str, rows: int, columns: int, scale: float, still: bool, kind: GGMLType) -> Bytes:
        """still: adds nothing to the topics' coordinates."""
        rng = _rng(shape, name)
        parts = []
        for start in range(0, rows, CHUNK):
            part = rng.standard_normal((min(CHUNK, rows - start), columns), dtype=np.float32) * np.float32(scale)
            if still:
                part[: max(shape.topics - start, 0)] = 0
            parts.append(encode(part, kind))
        return np.concatenate(parts)

    def matrix(prefix: str, name: str, rows: int, columns: int, scale: float, still: bool = False) -> Entry:
        kind = tensor_type(f"{prefix}{name}.weight", columns, shape.layers, file_type)
        make = partial(encoded, name, rows, columns, scale, still, kind)
        return Entry(f"{prefix}{name}.weight", kind, (rows, columns), make)

    def experts(layer: int, name: str, rows: int, columns: int, scale: float, still: bool = False) -> Entry:
        one = matrix(f"blk.{layer}.", name, rows, columns, scale, still)
        fixed = shape.topics if still else 0
        make = partial(_shuffled, shape, f"{name} {layer}", fixed, one)
        return Entry(one.name, one.kind, (shape.experts, rows, columns), make)

    def vector(name: str, n: int) -> Entry:
        return Entry(f"{name}.weight", GGMLType.F32, (n,), lambda: np.ones(n, np.float32))

    for name in ("token_embd", "output"):
        kind = tensor_type(f"{name}.weight", e, shape.layers, file_type)
        yield Entry(f"{name}.weight", kind, (shape.vocab, e), partial(_table, shape, name, kind))
    yield vector("output_norm", e)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        if shape.arch == "qwen35moe":
            yield from qwen35.parts(shape, layer, matrix, _rng(shape, f"mixer {layer}"))
        else:
            yield from _attention(shape, prefix, matrix, vector)
        router = partial(router_rows, shape, layer)
        yield Entry(f"{prefix}ffn_gate_inp.weight", GGMLType.F32, (shape.experts, e), router)
        yield experts(layer, "ffn_gate_exps", shape.ff, e, e**-0.5)
        yield experts(layer, "ffn_up_exps", shape.ff, e, e**-0.5)
        yield experts(layer, "ffn_down_exps", e, shape.ff, 0.3 * shape.ff**-0.5, still=True)


def _attention(
    shape: ExpertShape, prefix: str, matrix: Callable[..., Entry], vector: Callable[[str, int], Entry]
) -> Iterator[Entry]:
    e, n_q, n_kv = shape.embd, shape.heads * shape.head_dim, shape.kv * shape.head_dim
    yield vector(f"{prefix}attn_norm", e)
    if shape.arch == "gpt-oss":
        yield from _parts_of_gpt_oss(shape, prefix)
    else:
        yield vector(f"{prefix}ffn_norm", e)
        yield vector(f"{prefix}attn_q_norm", shape.head_dim)
        yield vector(f"{prefix}attn_k_norm", shape.head_dim)
    yield matrix(prefix, "attn_q", n_q, e, e**-0.5)
    yield matrix(prefix, "attn_k", n_kv, e, e**-0.5)
    yield matrix(prefix, "attn_v", n_kv, e, e**-0.5)
    yield matrix(prefix, "attn_output", e, n_q, 0.1 * n_q**-0.5, still=True)


def _parts_of_gpt_oss(shape: ExpertShape, prefix: str) -> Iterator[Entry]:
    """Its norm, sinks and biases, all of which are zeros but the norm."""
    e, n_q, n_kv, experts = shape.embd, shape.heads * shape.head_dim, shape.kv * shape.head_dim, shape.experts
    rows = {"attn_q": (n_q,), "attn_k": (n_kv,), "attn_v": (n_kv,), "attn_output": (e,), "ffn_gate_inp": (experts,)}
    rows |= {f"ffn_{name}_exps": (experts, shape.ff) for name in ("gate", "up")} | {"ffn_down_exps": (experts, e)}
    yield Entry(f"{prefix}post_attention_norm.weight", GGMLType.F32, (e,), lambda: np.ones(e, np.float32))
    for name, dims in {"attn_sinks.weight": (shape.heads,), **{f"{name}.bias": n for name, n in rows.items()}}.items():
        yield Entry(f"{prefix}{name}", GGMLType.F32, dims, partial(np.zeros, dims, np.float32))


def _shuffled(shape: ExpertShape, what: str, fixed: int, one: Entry) -> Bytes:
    """[experts * rows, row bytes]: an order of the rows for each expert, the first so many in their places."""
    rng, data = _rng(shape, what), one.make()
    orders = [
        np.concatenate([np.arange(fixed), fixed + rng.permutation(len(data) - fixed)]) for _ in range(shape.experts)
    ]
    return data[np.concatenate(orders)]


def _table(shape: ExpertShape, name: str, kind: GGMLType) -> Bytes:
    """Embeddings, or the head's rows: noise but for the topics' coordinates."""
    rng, parts, is_head = _rng(shape, name), [], name == "output"
    scale = shape.embd**-0.5 if is_head else 1.0
    for start in range(0, shape.vocab, CHUNK):
        n = min(CHUNK, shape.vocab - start)
        part = rng.standard_normal((n, shape.embd), dtype=np.float32) * np.float32(scale)
        part[:, : shape.topics] = 0
        topics = [topic_of(shape, start + i) for i in range(n)]
        part[np.arange(n), topics] = STAY / CONSTANT if is_head else CONSTANT
        parts.append(encode(part, kind))
    return np.concatenate(parts)


def _rng(shape: ExpertShape, name: str) -> np.random.Generator:
    return np.random.default_rng([shape.seed, zlib.crc32(name.encode())])
