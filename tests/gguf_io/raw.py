"""GGUF files put together byte by byte, so that tests can write what no decent writer would."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from powerinfer_cli.gguf_io import GGMLType, write_gguf

HUGE = 2**64 - 1

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACKING = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def entry(key: str | bytes, kind: int, value: Any) -> bytes:
    """A metadata entry; `value` is bytes already for strings and arrays."""
    return string(key) + u32(kind) + (value if isinstance(value, bytes) else struct.pack("<" + PACKING[kind], value))


def array(kind: int, items: Sequence[Any], count: int | None = None) -> bytes:
    """An array's bytes; `count` may lie."""
    packed = b"".join(item if isinstance(item, bytes) else struct.pack("<" + PACKING[kind], item) for item in items)
    return u32(kind) + u64(len(items) if count is None else count) + packed


def tensor(name: str | bytes, dims: Sequence[int], kind: int = 0, offset: int = 0, n_dims: int | None = None) -> bytes:
    """A tensor's entry; `dims` innermost first, as the file has them."""
    sizes = b"".join(u64(n) for n in dims)
    return string(name) + u32(len(dims) if n_dims is None else n_dims) + sizes + u32(kind) + u64(offset)


def build(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_entries: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + u32(version)
    head += u64(len(tensors) if n_tensors is None else n_tensors)
    head += u64(len(entries) if n_entries is None else n_entries)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data if data else head


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def small_model(path: Path, sparse: bool = True) -> Path:
    """A file of our own writer with every kind of content, about 1.5 kB."""
    weights = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    write_gguf(
        path,
        arch="llama",
        metadata={
            "llama.block_count": 2,
            "llama.rope.freq_base": 10000.0,
            "flag": True,
            "long": 2**40,
            "tokenizer.ggml.tokens": ["<s>", "été", "", "\u2581the"],
            "tokenizer.ggml.scores": np.array([0.0, -1.5, 2.0], np.float32),
            "flags": np.array([True, False]),
        },
        tensors=[
            ("blk.0.ffn_up.weight", weights, GGMLType.Q4_0),
            ("blk.0.ffn_norm.weight", weights[0], GGMLType.F32),
            ("blk.0.gpu_bucket", np.empty(0, np.int32), GGMLType.I32),
            ("output.weight", weights, GGMLType.F16),
        ],
        sparse=sparse,
    )
    return path


def peer_model(path: Path) -> Path:
    """A file of the `gguf` package's writer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float64("double", 0.25)
    writer.add_int8("small", -3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ünï"])
    writer.add_array("tokenizer.ggml.token_type", [1, 2, 3])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_tensor("a", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("b", np.arange(8, dtype=np.float16).reshape(2, 2, 2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
