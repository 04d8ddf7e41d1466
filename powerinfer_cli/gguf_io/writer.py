"""Writing a GGUF or PWRI file, all or nothing, through `gguf.GGUFWriter`."""

import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.system.files import replace, to_disk

from .encoder import quantize
from .failure import GGUFError, shown, shown_path
from .magic import SPARSE
from .metadata import LONGEST_KEY
from .strings import Strings
from .tensor import LONGEST_NAME, MOST_DIMENSIONS
from .types import BLOCK, INDEX_ARCHITECTURE, INDEX_FILE_TYPES, GGMLType, ValueType

if TYPE_CHECKING:
    import gguf

__all__ = ["WritableValue", "typed_value", "write_gguf"]

WritableValue: TypeAlias = bool | int | float | str | np.generic | npt.NDArray[Any] | list[Any] | Strings
"""An int becomes UINT32 if it fits, else INT32, UINT64 or INT64; a float FLOAT32; NumPy scalars and arrays keep
their type. A list holds str, bool, int (INT32, else INT64) or float, all alike, and is not empty."""

_BY_DTYPE: dict[str, ValueType] = {
    "bool": ValueType.BOOL,
    "uint8": ValueType.UINT8,
    "int8": ValueType.INT8,
    "uint16": ValueType.UINT16,
    "int16": ValueType.INT16,
    "uint32": ValueType.UINT32,
    "int32": ValueType.INT32,
    "float32": ValueType.FLOAT32,
    "uint64": ValueType.UINT64,
    "int64": ValueType.INT64,
    "float64": ValueType.FLOAT64,
}
INDEX_FILE_NUMBERS = {kind: number for number, kind in INDEX_FILE_TYPES.items()}
_PLAIN_DTYPES: dict[GGMLType, type[np.generic]] = {
    GGMLType.I8: np.int8,
    GGMLType.I16: np.int16,
    GGMLType.I32: np.int32,
    GGMLType.I64: np.int64,
    GGMLType.F64: np.float64,
}


def write_gguf(
    path: str | Path,
    *,
    arch: str,
    metadata: Mapping[str, WritableValue],
    tensors: Iterable[tuple[str, npt.NDArray[Any], GGMLType]],
    sparse: bool,
) -> None:
    """Write a file whose magic is `PWRI` if `sparse`, else `GGUF`; an old file stays whole until the new one is.

    Float arrays are stored as the given type; uint8 arrays are that type's bytes already, [..., row_bytes]. A sparse
    file of INDEX_ARCHITECTURE gets the type numbers that the original PowerInfer knows.
    GGUFError names the key, the tensor or the reason; nothing is left behind then.
    """
    import gguf

    path = Path(path)
    temporary = path.parent / f".{path.name[:32]}.{secrets.token_hex(8)}.tmp"
    writer = gguf.GGUFWriter(None, arch)
    try:
        _add_metadata(writer, arch, metadata)
        _add_tensors(writer, tensors, INDEX_FILE_NUMBERS if sparse and arch == INDEX_ARCHITECTURE else {})
        _write(writer, temporary, sparse)
        replace(temporary, path)
        _sync_folder(path.parent)
    except GGUFError as error:
        raise GGUFError(f"{shown_path(path)}: {error}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise GGUFError(f"{shown_path(path)}: cannot be written: {reason}") from error
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink()


def _write(writer: "gguf.GGUFWriter", temporary: Path, sparse: bool) -> None:
    try:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        assert writer.fout is not None
        out = writer.fout[0]
        if sparse:
            out.seek(0)
            out.write(SPARSE)
        out.flush()
        os.fsync(out.fileno())
    finally:
        writer.close()


def _sync_folder(folder: Path) -> None:
    """Make the renaming last through a power failure, where the folder lets itself be opened and synchronised."""
    with suppress(OSError):
        to_disk(folder)


def _add_metadata(writer: "gguf.GGUFWriter", arch: str, metadata: Mapping[str, WritableValue]) -> None:
    import gguf

    for key, value in metadata.items():
        if not 0 < len(key.encode()) <= LONGEST_KEY:
            raise GGUFError(f"the metadata key {shown(key)} must have 1 to {LONGEST_KEY} bytes")
        if key == "general.architecture":
            if value != arch:
                raise GGUFError(f"general.architecture is {shown(str(value))}, but the architecture is {shown(arch)}")
            continue
        if key == "general.alignment":
            if not isinstance(value, int | np.integer):
                raise GGUFError("general.alignment must be an integer")
            writer.add_custom_alignment(int(value))
            continue
        kind, item_kind, plain = typed_value(key, value)
        writer.add_key_value(
            key, plain, gguf.GGUFValueType(kind), None if item_kind is None else gguf.GGUFValueType(item_kind)
        )


def typed_value(key: str, value: WritableValue) -> tuple[ValueType, ValueType | None, Any]:
    """The value's type, its items' type if it is an array, and the value in Python's own types."""
    if isinstance(value, Strings):
        value = list(value)
    if isinstance(value, np.ndarray | list):
        item_kind, items = _typed_items(key, value)
        return ValueType.ARRAY, item_kind, items
    if isinstance(value, str):
        return ValueType.STRING, None, _encoded(key, value)
    if isinstance(value, np.generic):
        return _from_dtype(key, value.dtype), None, value.item()
    if isinstance(value, bool):
        return ValueType.BOOL, None, value
    if isinstance(value, int):
        return _int_type(key, value), None, value
    if isinstance(value, float):
        return ValueType.FLOAT32, None, _float32(key, value)
    raise GGUFError(f"the metadata value {shown(key)} is {type(value).__name__}, which GGUF does not know")


def _typed_items(key: str, value: npt.NDArray[Any] | list[Any]) -> tuple[ValueType, list[Any]]:
    if len(value) == 0:
        raise GGUFError(f"the metadata array {shown(key)} is empty, which the gguf package cannot write")
    if isinstance(value, np.ndarray):
        if value.ndim != 1:
            raise GGUFError(f"the metadata array {shown(key)} has {value.ndim} dimensions, but must have one")
        return _from_dtype(key, value.dtype), value.tolist()
    kinds = {type(item) for item in value}
    if kinds == {str}:
        return ValueType.STRING, [_encoded(key, item) for item in value]
    if kinds == {bool}:
        return ValueType.BOOL, value
    if kinds == {float}:
        return ValueType.FLOAT32, [_float32(key, item) for item in value]
    if kinds == {int}:
        wide = min(value) < -(2**31) or max(value) >= 2**31
        return (ValueType.INT64 if wide else ValueType.INT32), [_checked_int64(key, item) for item in value]
    raise GGUFError(f"the items of the metadata array {shown(key)} must be all str, all bool, all int or all float")


def _from_dtype(key: str, dtype: "np.dtype[Any]") -> ValueType:
    kind = _BY_DTYPE.get(dtype.name)
    if kind is None:
        raise GGUFError(f"the metadata value {shown(key)} is of NumPy's type {dtype.name}, which GGUF does not know")
    return kind


def _int_type(key: str, value: int) -> ValueType:
    if 0 <= value < 2**32:
        return ValueType.UINT32
    if -(2**31) <= value < 0:
        return ValueType.INT32
    if 0 <= value < 2**64:
        return ValueType.UINT64
    _checked_int64(key, value)
    return ValueType.INT64


def _checked_int64(key: str, value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise GGUFError(f"the metadata value {shown(key)} does not fit into 64 bits")
    return value


def _float32(key: str, value: float) -> float:
    with np.errstate(over="ignore"):
        if np.isinf(np.float32(value)) and not np.isinf(value):
            raise GGUFError(f"the metadata value {shown(key)} does not fit into a float32")
    return value


def _encoded(key: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise GGUFError(f"the metadata value {shown(key)} cannot be written as UTF-8") from error


def _add_tensors(
    writer: "gguf.GGUFWriter",
    tensors: Iterable[tuple[str, npt.NDArray[Any], GGMLType]],
    numbers: Mapping[GGMLType, int],
) -> None:
    import gguf

    names: set[str] = set()
    for name, array, kind in tensors:
        if len(name.encode()) > LONGEST_NAME or name in names:
            raise GGUFError(f"the tensor name {shown(name)} is there twice or longer than {LONGEST_NAME} bytes")
        names.add(name)
        if not 1 <= array.ndim <= MOST_DIMENSIONS:
            raise GGUFError(
                f"the tensor {shown(name)} has {array.ndim} dimensions, but 1 to {MOST_DIMENSIONS} are possible"
            )
        try:
            stored, shape = _stored(array, kind)
            raw_type = gguf.GGMLQuantizationType(numbers.get(kind, kind))
        except (GGUFError, ValueError) as error:
            raise GGUFError(f"the tensor {shown(name)}: {error}") from error
        writer.add_tensor_info(name, shape, np.dtype(np.void), stored.nbytes, raw_dtype=raw_type)
        writer.tensors[-1][name].tensor = stored


def _stored(array: npt.NDArray[Any], kind: GGMLType) -> tuple[npt.NDArray[np.uint8], tuple[int, ...]]:
    """The bytes of a tensor, and its shape in numbers."""
    block_size, block_bytes = BLOCK[kind]
    if array.dtype == np.uint8:
        if array.shape[-1] % block_bytes:
            raise GGUFError(f"rows of {array.shape[-1]} bytes are no whole {kind.name} blocks of {block_bytes} bytes")
        return np.ascontiguousarray(array), (*array.shape[:-1], array.shape[-1] // block_bytes * block_size)
    plain = _PLAIN_DTYPES.get(kind)
    if plain is not None:
        if array.dtype != plain:
            raise GGUFError(f"an array of {array.dtype.name} cannot be stored as {kind.name}")
        return np.ascontiguousarray(array).view(np.uint8), array.shape
    if kind is GGMLType.F16 and array.dtype == np.float16:
        return np.ascontiguousarray(array).view(np.uint8), array.shape
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise GGUFError(f"an array of {array.dtype.name} cannot be stored as {kind.name}")
    return quantize(array.astype(np.float32, copy=False), kind), array.shape
