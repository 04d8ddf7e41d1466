"""Files in the safetensors format, mapped into memory; what their headers say is checked before any of it is used.

Format (https://github.com/huggingface/safetensors): the header's length (u64), a JSON object that has for each tensor
its type, its shape, and where its bytes begin and end, counted from behind the header; then these bytes, without gaps.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint.float8 import Floats, e4m3, e5m2, e8m0
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import BLOCK, GGMLType, MadeTensor, Tensor, map_file
from powerinfer_cli.json_text import read_json

__all__ = ["open_safetensors"]

MOST_HEADER = 100 << 20  # bytes, as the format's own library has it
MOST_SIZE = 1 << 48  # of a dimension
TYPES = {
    "F64": GGMLType.F64,
    "F32": GGMLType.F32,
    "F16": GGMLType.F16,
    "BF16": GGMLType.BF16,
    "I64": GGMLType.I64,
    "I32": GGMLType.I32,
    "I16": GGMLType.I16,
    "I8": GGMLType.I8,
    "U8": GGMLType.I8,
    "BOOL": GGMLType.I8,
}
"""Types of eight bits keep their bits."""
FLOAT8 = {"F8_E4M3": e4m3, "F8_E5M2": e5m2, "F8_E8M0": e8m0}
"""Floats of eight bits become float32 when they are read: what each byte is, [256]."""
PACKED = ("F4", "F6_E2M3", "F6_E3M2")


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, views of the mapped file.

    Raises:
        PowerInferError: the file cannot be opened, is cut short, or its header is not what it should be.
    """
    file = np.frombuffer(map_file(path), np.uint8)
    if len(file) < 8:
        raise _wrong(path, f"has {len(file)} bytes, too few for a safetensors file")
    length = int(file[:8].view("<u8")[0])
    if not 2 <= length <= min(MOST_HEADER, len(file) - 8):
        raise _wrong(path, f"says that its header has {length} bytes, but the file has {len(file)}: cut short?")
    data = file[8 + length :]
    try:
        header = read_json(bytes(file[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "its header is not JSON: not a safetensors file") from error
    if not isinstance(header, dict):
        raise _wrong(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    found = {name: _tensor(path, name, entry, data) for name, entry in header.items()}
    _check_apart(path, header, len(data))
    return found


def _tensor(path: Path, name: str, entry: Any, data: Any) -> Tensor:
    what = f"tensor {name[:80]!r}"
    if not isinstance(entry, dict):
        raise _wrong(path, f"{what} is described by something else than an object")
    kind: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if kind in PACKED:
        raise _wrong(path, f"{what} is of type {kind}: convert a checkpoint of 16-bit floats instead")
    if not isinstance(kind, str) or kind not in (*TYPES, *FLOAT8):
        raise _wrong(path, f"{what} is of the unknown type {str(kind)[:20]!r}")
    if not _numbers(shape) or len(shape) > 8 or any(n > MOST_SIZE for n in shape):
        raise _wrong(path, f"{what} has no sensible shape")
    if not _numbers(offsets) or len(offsets) != 2:
        raise _wrong(path, f"{what} does not say where its bytes are")
    begin, end = offsets
    nbytes = prod(shape) * (1 if kind in FLOAT8 else BLOCK[TYPES[kind]][1])
    if not begin <= end <= len(data):
        raise _wrong(path, f"{what} ends at byte {end}, but the file has {len(data)} behind its header: cut short?")
    if end - begin != nbytes:
        sizes = " x ".join(map(str, shape)) or "1"
        raise _wrong(path, f"{what} has {end - begin} bytes, but {sizes} numbers of {kind} have {nbytes}")
    if kind in FLOAT8:
        make = partial(_decoded, FLOAT8[kind], Tensor(name, GGMLType.I8, tuple(shape), data[begin:end], path))
        return MadeTensor(name, GGMLType.F32, tuple(shape) or (1,), make, path)
    return Tensor(name, TYPES[kind], tuple(shape), data[begin:end], path)


def _decoded(values: Callable[[], Floats], tensor: Tensor) -> Any:
    out = values()[tensor.data]
    tensor.drop_pages(0, tensor.nbytes)
    return out.view(np.uint8)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)


def _check_apart(path: Path, header: dict[str, Any], size: int) -> None:
    """No byte belongs to two tensors, or to none."""
    last, previous = 0, ""
    for begin, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if begin < last:
            raise _wrong(path, f"tensor {name[:80]!r} overlaps {previous[:80]!r}")
        if begin > last:
            raise _wrong(path, f"{begin - last} bytes before tensor {name[:80]!r} belong to none")
        last, previous = end, name
    if last != size:
        raise _wrong(path, f"{size - last} bytes behind the last tensor belong to none")


def _wrong(path: Path, problem: str) -> PowerInferError:
    return PowerInferError(f"{path}: {problem}")
