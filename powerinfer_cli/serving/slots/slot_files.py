"""What a slot has read, in a file: tokens and their KV cache. Nothing in such a file is believed before it is checked.

A file is `MAGIC`, the header's length (uint32, little endian), the header (JSON), the ids (int32), and the arrays one
behind the other, as the header describes them.
"""

import errno
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.slots.engine_like import EngineLike, slot_context
from powerinfer_cli.serving.tasks import SlotContent
from powerinfer_cli.system.files import open_to_map, replace

__all__ = ["SavedSlot", "SlotFiles", "read_slot", "write_slot"]

MAGIC = b"PWRSLOT2"
LONGEST_HEADER = 1 << 20
LONGEST_NAME = 64
TYPES = frozenset(["float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
ID = np.dtype("<i4")


@dataclass(frozen=True)
class SavedSlot(SlotContent):
    """A file's content. n_bytes: of the file."""

    n_bytes: int


class SlotFiles:
    """Files of one engine's slots. For any thread but the engine's, which has others to serve."""

    def __init__(self, engine: EngineLike, model: str = "") -> None:
        """model: the fingerprint that files carry; empty for one of the model's shape alone."""
        self._model = model or hashlib.blake2b(repr(engine.config).encode(), digest_size=16).hexdigest()
        self._n_ctx, self._n_vocab = slot_context(engine), engine.config.n_vocab

    def write(self, path: Path, content: SlotContent) -> int:
        """Bytes written. Raises PowerInferError."""
        return write_slot(path, self._model, content.ids, content.arrays)

    def read(self, path: Path) -> "SavedSlot":
        """Raises PowerInferError."""
        return read_slot(path, self._model, self._n_ctx, self._n_vocab)


def write_slot(path: Path, model: str, ids: Sequence[int], arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Bytes written. The file is there whole or not at all. model: its fingerprint.

    Raises PowerInferError: it cannot be written.
    """
    described = [{"name": name, "type": a.dtype.name, "shape": list(a.shape)} for name, a in arrays.items()]
    header = json.dumps({"model": model, "n_tokens": len(ids), "arrays": described}).encode()
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + len(header).to_bytes(4, "little") + header)
                file.write(np.asarray(ids, ID).tobytes())
                for array in arrays.values():
                    file.write(np.ascontiguousarray(array).tobytes())
                n_bytes = file.tell()
            replace(Path(name), path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise PowerInferError(f"cannot write {path.name}: {error.strerror}") from error
    return n_bytes


def read_slot(path: Path, model: str, n_ctx: int, n_vocab: int) -> SavedSlot:
    """What `write_slot` wrote for the same model.

    Raises PowerInferError: no such file, or not one of these, another model's, more than n_ctx tokens, ids that are
    not in the vocabulary.
    """
    try:
        with open(path, "rb", opener=_opened) as file:
            return _read(file, os.fstat(file.fileno()).st_size, model, n_ctx, n_vocab)
    except OSError as error:
        raise PowerInferError(f"cannot read {path.name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise PowerInferError(f"{path.name} is no saved slot") from error


def _opened(path: str, flags: int) -> int:
    """A regular file: others may never end to be opened or read, and opening some does something."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    handle = open_to_map(Path(path))  # which does not wait should the file be another one by now
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return handle


def _read(file: io.BufferedReader, size: int, model: str, n_ctx: int, n_vocab: int) -> SavedSlot:
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("magic")
    length = int.from_bytes(file.read(4), "little")
    if length > LONGEST_HEADER:
        raise ValueError("header")
    header = json.loads(file.read(length))
    n_tokens = header["n_tokens"]
    shapes = [(_name(one["name"]), _type(one["type"]), _shape(one["shape"])) for one in header["arrays"]]
    if not isinstance(n_tokens, int) or n_tokens < 0 or len({name for name, _, _ in shapes}) < len(shapes):
        raise ValueError("header")
    if header["model"] != model:
        raise PowerInferError("the slot was saved by another model, or with another kind of KV cache")
    if n_tokens > n_ctx:
        raise PowerInferError(f"{n_tokens} tokens do not fit the slot's context of {n_ctx}")
    wanted = ID.itemsize * n_tokens + sum(dtype.itemsize * prod(shape) for _, dtype, shape in shapes)
    if file.tell() + wanted != size:
        raise ValueError("size")
    ids = np.frombuffer(file.read(ID.itemsize * n_tokens), ID)
    if n_tokens and not 0 <= int(ids.min()) <= int(ids.max()) < n_vocab:
        raise ValueError("ids")
    arrays = {}
    for name, dtype, shape in shapes:
        stored = np.empty(dtype.itemsize * prod(shape), np.uint8)
        if file.readinto(stored.data) != stored.size:
            raise ValueError("size")
        arrays[name] = stored.view(dtype).reshape(shape)
        if dtype.kind == "f" and not np.isfinite(arrays[name]).all():  # which would spoil all that is read behind them
            raise ValueError("values")
    return SavedSlot(ids.tolist(), arrays, size)


def _name(name: object) -> str:
    """LAYER.PART, as the cache calls it; whether it has such a part is its affair."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise ValueError("name")
    return name


def _type(name: object) -> np.dtype[Any]:
    if name not in TYPES:
        raise ValueError("type")
    return np.dtype(str(name)).newbyteorder("<")


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("shape")
    return tuple(shape)
