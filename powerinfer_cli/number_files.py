"""Files of numbers that others may have made, torch's .pt and NumPy's .npz: nothing in them is executed, and nothing is
allocated before its size is known to be there.
"""

import io
import math
import re
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError

__all__ = ["is_whole", "layer_files", "load_arrays", "load_torch"]

TYPES = {  # of real numbers that torch converts to all others
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
}


def layer_files(folder: Path, stem: str, n_layer: int, what: str, *, without: Collection[int] = ()) -> dict[int, Path]:
    """`STEM_N.pt` of each layer, but for those `without` one, by number: sorted as text, 10 would come before 2.

    Raises:
        PowerInferError: the folder cannot be read, has files of more or fewer layers, or one of a layer that is said to
            have none. what: plural, for the message.
    """
    name = re.compile(rf"{re.escape(stem)}_(\d{{1,6}})\.pt")
    try:
        paths = {int(m[1]): path for path in sorted(folder.iterdir()) if (m := name.fullmatch(path.name))}
    except OSError as error:
        raise PowerInferError(f"{folder}: cannot read the {what}: {error.strerror or error}") from error
    if unexpected := sorted(set(paths) & set(without)):
        raise PowerInferError(
            f"{paths[unexpected[0]]}: layer {unexpected[0]} is said to be dense: remove this file, or say otherwise"
        )
    wanted = [layer for layer in range(n_layer) if layer not in without]
    missing = [layer for layer in wanted if layer not in paths]
    if missing or len(paths) > len(wanted):
        dense = f" and {len(without)} dense ones" if without else ""
        raise PowerInferError(
            f"{folder}: {what} of another model: {len(paths)} layers{dense}, but the model has {n_layer}"
            + (f" ({stem}_{missing[0]}.pt is missing)" if missing else "")
        )
    return {layer: paths[layer] for layer in wanted}


def load_torch(path: Path, most_bytes: int, what: str) -> Any:
    """What `torch.save` has written. Tensors' numbers stay in the file, mapped into memory; see `is_whole`.

    Raises:
        PowerInferError: a file beyond `most_bytes`, or one that is damaged, compressed or of other than plain data.
            what: that it should be, for the message.
    """
    import torch

    try:
        size = path.stat().st_size
        if size <= most_bytes:
            with zipfile.ZipFile(path) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("compressed")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise PowerInferError(f"{path}: cannot read {what}: {error.strerror or error}") from error
    except Exception as error:  # torch raises whatever a damaged or hostile file provokes
        raise PowerInferError(f"{path}: not {what} ({type(error).__name__})") from error
    raise PowerInferError(f"{path}: too large for {what}")


def is_whole(value: Any) -> bool:
    """Is it a tensor of real numbers that are all there? Strides can make many of one, and some layouts have none."""
    import torch

    if not isinstance(value, torch.Tensor) or value.is_nested or str(value.dtype).removeprefix("torch.") not in TYPES:
        return False
    if value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def load_arrays(path: Path, names: Iterable[str], most_bytes: int, what: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays of these names that `np.savez` has written, with or without compression.

    Raises:
        PowerInferError: a file that is damaged, lacks one, or holds more than `most_bytes`. what: that it should be,
            for the message.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise ValueError("too large")
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > most_bytes:
                raise ValueError("too large")
            return {name: _array(archive, f"{name}.npy") for name in names}
    except Exception as error:  # zipfile, zlib and NumPy raise whatever a damaged or hostile file provokes
        raise PowerInferError(f"{path}: not {what} ({type(error).__name__})") from error


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    part = archive.getinfo(name)
    if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others inflate without a limit
        raise ValueError("compressed in another way")
    with archive.open(part) as packed:
        data = packed.read(part.file_size)  # to read until the end would inflate more than the file says
    raw = io.BytesIO(data)
    if np.lib.format.read_magic(raw) != (1, 0):
        raise ValueError("of another version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(raw)
    if dtype.kind not in "biufU" or math.prod(shape) * dtype.itemsize != len(data) - raw.tell():
        raise ValueError("not as many numbers as it says")
    flat = np.frombuffer(data, dtype, offset=raw.tell())
    return flat.reshape(shape, order="F" if by_columns else "C").copy()
