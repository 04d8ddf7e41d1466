"""A synthetic model as a file: sparse (PowerInfer GGUF), or its dense twin for llama.cpp."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import gguf
import numpy as np

from powerinfer_cli.gguf_io import GGMLType
from scripts.synthetic.file import Bytes, Entry, add_vocabulary, write_file
from scripts.synthetic.types import FILE_TYPES, encode, tensor_type
from scripts.synthetic.weights import Shape, base_matrices, shuffle

__all__ = ["add_metadata", "write_model"]

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
SPARSE_FFN = ("ffn_gate", "ffn_up", "ffn_down_t", "fc1", "fc2")
DENSE_FFN = ("ffn_gate", "ffn_up", "ffn_down")
# Which shuffle a matrix follows: the predictor's rows are the gate's; up and down have their own.
SHUFFLED = {"ffn_gate": "gate", "fc2": "gate", "ffn_up": "up", "ffn_down": "down", "ffn_down_t": "down"}


def write_model(path: Path, shape: Shape, file_type: str, *, dense: bool) -> None:
    """Write the file, tensor by tensor: memory holds one layer, and the matrix that is being written.

    Numbers are quantised once; a layer's matrices are shuffled rows (of ffn_down: shuffled blocks) of the same bytes.
    """
    metadata = partial(add_metadata, shape=shape, file_type=file_type, dense=dense)
    entries = _entries(shape, file_type, dense=dense)
    write_file(path, "llama", metadata, entries, magic=b"GGUF" if dense else b"PWRI")


def add_metadata(writer: gguf.GGUFWriter, shape: Shape, file_type: str, *, dense: bool) -> None:
    """All keys."""
    writer.add_name(f"synthetic-{shape.sparsity:.2f}")
    writer.add_context_length(shape.ctx)
    writer.add_embedding_length(shape.embd)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_rope_dimension_count(shape.embd // shape.heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(FILE_TYPES[file_type])
    if not dense:
        writer.add_float32("powerinfer.sparse_threshold", 0.0)
    add_vocabulary(writer, shape.vocab, shape.seed)


def _entries(shape: Shape, file_type: str, *, dense: bool) -> Iterator[Entry]:
    base = base_matrices(shape)

    def encoded(name: str, kind: GGMLType) -> Bytes:
        return np.concatenate([encode(chunk, kind) for chunk in base[name].chunks()])

    of_a_layer = cache(encoded)  # every layer asks for the same again; the two big matrices are written only once

    def matrix(name: str, make: Callable[[GGMLType], Bytes], prefix: str = "") -> Entry:
        full_name = f"{prefix}{name}.weight"
        rows, columns = base[name].rows, base[name].columns
        kind = tensor_type(full_name, columns, shape.layers, file_type)
        return Entry(full_name, kind, (rows, columns), partial(make, kind))

    def norm(name: str) -> Entry:
        return Entry(f"{name}.weight", GGMLType.F32, (shape.embd,), lambda: np.ones(shape.embd, np.float32))

    yield matrix("token_embd", partial(encoded, "token_embd"))
    yield norm("output_norm")
    yield matrix("output", partial(encoded, "output"))
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        yield norm(f"{prefix}attn_norm")
        yield norm(f"{prefix}ffn_norm")
        for name in ATTENTION:
            yield matrix(name, partial(of_a_layer, name), prefix)
        for name in DENSE_FFN if dense else SPARSE_FFN:
            yield matrix(name, partial(_shuffled, of_a_layer, shape, layer, name), prefix)


def _shuffled(encoded: Callable[[str, GGMLType], Bytes], shape: Shape, layer: int, name: str, kind: GGMLType) -> Bytes:
    """The bytes of a layer's own shuffle of a matrix."""
    data = encoded(name, kind)
    if name not in SHUFFLED:
        return data
    order = shuffle(shape, layer, SHUFFLED[name])
    if name != "ffn_down":
        return data[order]  # a neuron is a row
    # A neuron is a column: groups of columns are whole blocks, and move as one.
    groups = data.reshape(len(data), shape.ff // shape.group, -1)
    return np.ascontiguousarray(groups[:, order[:: shape.group] // shape.group]).reshape(len(data), -1)
