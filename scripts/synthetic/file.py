"""Writes a synthetic model's file: metadata, then tensor by tensor, so that memory holds one matrix at a time."""

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from scripts.synthetic.vocabulary import make_vocabulary

__all__ = ["Bytes", "Entry", "add_vocabulary", "write_file"]

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT

Bytes = npt.NDArray[Any]  # a matrix's are uint8, [rows, row_bytes]


@dataclass(frozen=True)
class Entry:
    """A tensor of the file; `make` gives its bytes."""

    name: str
    kind: GGMLType
    dims: tuple[int, ...]
    make: Callable[[], Bytes]

    @property
    def nbytes(self) -> int:
        block_size, block_bytes = BLOCK[self.kind]
        return int(np.prod(self.dims)) // block_size * block_bytes


def write_file(
    path: Path,
    architecture: str,
    add_metadata: Callable[[gguf.GGUFWriter], None],
    entries: Iterable[Entry],
    *,
    magic: bytes = b"GGUF",
    holes: bool = False,
) -> None:
    """Write the file under another name first: who finds it finds all of it. holes: there are no numbers in it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    writer = gguf.GGUFWriter(temporary, architecture)
    try:
        add_metadata(writer)
        tensors = list(entries)
        for entry in tensors:
            raw_type = gguf.GGMLQuantizationType(entry.kind)
            writer.add_tensor_info(entry.name, entry.dims, np.dtype(np.void), entry.nbytes, raw_dtype=raw_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in tensors if not holes else ():
            writer.write_tensor_data(entry.make())
        writer.close()
        with temporary.open("r+b") as file:
            file.write(magic)
            if holes:
                file.truncate(sum(map(_padded, (temporary.stat().st_size, *(one.nbytes for one in tensors)))))
        temporary.replace(path)
    finally:
        writer.close()
        with suppress(OSError):
            temporary.unlink()


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def add_vocabulary(writer: gguf.GGUFWriter, size: int, seed: int) -> None:
    """The tokenizer's keys."""
    vocabulary = make_vocabulary(size, seed)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary.pieces)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
