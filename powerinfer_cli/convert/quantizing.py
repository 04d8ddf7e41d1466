"""A GGUF file with other types: which tensor gets which, and writing it, piece by piece and with all threads."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.convert.importance import Importance
from powerinfer_cli.convert.mixes import (
    FLOATS,
    NEEDS_IMPORTANCE,
    VALUES,
    Mix,
    Part,
    Shape,
    fitting_type,
    is_kept,
    mixed_type,
    part_of,
)
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import same_file
from powerinfer_cli.gguf_io import (
    BLOCK,
    AddedValue,
    GGMLType,
    GGUFFile,
    StreamedTensor,
    Tensor,
    rewrite_gguf,
    shown_name,
    streamed,
)
from powerinfer_cli.gguf_io.encoders import SEARCHED
from powerinfer_cli.kernels.cpu.encoding import LEGACY, encode_rows, prepare_encoding

__all__ = ["WRITABLE", "Change", "Wishes", "planned", "retyped_stream", "target_parts", "write_quantized"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

NUMBERS_AT_ONCE = 1 << 22  # of a tensor that are in memory: 16 MB as float32
PER_THREAD = 1 << 16  # numbers that a thread takes at a time: they stay in its cache
PER_THREAD_PLAIN = 1 << 18  # of floats as other floats, which is sooner done than a piece is handed over
_NO_WEIGHTS = (GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64)
QUANTIZATION_VERSION = 2  # of ggml's blocks
WRITABLE = (*FLOATS, *LEGACY, *sorted(SEARCHED - set(LEGACY)), GGMLType.MXFP4, GGMLType.TQ1_0, GGMLType.TQ2_0)
"""Types that can be written."""


@dataclass(frozen=True)
class Wishes:
    """mix: None where tensors keep their types. pure: all tensors of the mix's base type. types: of tensors in whose
    name a pattern is found, the first counts. output, embedding: types of those two. leave_output: it stays as it is.
    requantize: quantised tensors too are taken.
    """

    mix: Mix | None
    pure: bool = False
    types: tuple[tuple[re.Pattern[str], GGMLType], ...] = ()
    output: GGMLType | None = None
    embedding: GGMLType | None = None
    leave_output: bool = False
    requantize: bool = False


@dataclass(frozen=True)
class Change:
    """Of a tensor: the type it gets, the one it would get if its rows were whole blocks, and importance [experts,
    n_cols].
    """

    tensor: Tensor
    kind: GGMLType
    wanted: GGMLType
    importance: Floats | None = None

    @property
    def nbytes(self) -> int:
        size, n_bytes = BLOCK[self.kind]
        return self.tensor.n_elements // size * n_bytes


def planned(gguf: GGUFFile, wishes: Wishes, importance: Importance | None = None) -> list[Change]:
    """What becomes of each tensor, in the file's order.

    Raises:
        PowerInferError: a tensor is quantised already, needs an importance that is not there, or has one of other
            sizes; a pattern that matches no tensor.
    """
    if importance is not None and not importance.of.keys() & gguf.tensors.keys():
        raise PowerInferError(f"{importance.path}: knows no matrix of {gguf.path}: it was made for another model")
    shape = _shape(gguf, importance is not None)
    values = [name for name in sorted(gguf.tensors, key=_layer) if part_of(name) in VALUES]
    before = {name: number for number, name in enumerate(values)}
    changes = []
    for tensor in gguf.tensors.values():
        wanted = _wanted(tensor, wishes, shape, before.get(tensor.name, 0), len(values))
        kind = fitting_type(wanted, tensor.shape[-1])
        if kind is tensor.type:
            changes.append(Change(tensor, kind, wanted))
            continue
        if kind not in WRITABLE:
            name = shown_name(tensor.name)
            raise PowerInferError(f"{gguf.path}: {name} as {kind.name}: that type cannot be written yet")
        _check_source(gguf, tensor, wishes)
        changes.append(Change(tensor, kind, wanted, _importance_of(tensor, importance)))
        _check_importance(gguf, changes[-1], wishes.mix)
    for pattern, _ in wishes.types:
        if not any(pattern.search(name) for name in gguf.tensors):
            raise PowerInferError(f"{gguf.path}: no tensor's name matches --tensor-type {pattern.pattern!r}")
    return changes


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _shape(gguf: GGUFFile, important: bool) -> Shape:
    arch = gguf.get("general.architecture", str, "")

    def number(key: str) -> int:
        found = gguf.metadata.get(f"{arch}.{key}", 0)
        if isinstance(found, np.ndarray):
            found = found[0] if found.size else 0
        return int(found) if isinstance(found, int | np.integer) else 0

    heads = number("attention.head_count")
    key_heads = number("attention.head_count_kv") if f"{arch}.attention.head_count_kv" in gguf.metadata else heads
    return Shape(
        architecture=arch,
        n_layer=number("block_count"),
        n_gqa=heads // key_heads if key_heads > 0 else 0,
        n_experts=number("expert_count"),
        tied="output.weight" not in gguf.tensors,
        important=important,
    )


def _wanted(tensor: Tensor, wishes: Wishes, shape: Shape, values_before: int, values: int) -> GGMLType:
    """llama-quantize's order: the two flags, patterns (which it forgets where the mix is a float type), the mix."""
    name, mix = tensor.name, wishes.mix
    part = part_of(name)
    numbers = tensor.n_elements > 0 and tensor.type not in _NO_WEIGHTS
    if is_kept(name, len(tensor.shape)) or not numbers or (wishes.leave_output and part is Part.OUTPUT):
        return tensor.type
    named = next((kind for pattern, kind in wishes.types if pattern.search(name)), None)
    by_flag = {Part.EMBEDDING: wishes.embedding, Part.OUTPUT: wishes.output}.get(part)
    if by_flag is not None and not (named is not None and name.startswith("per_layer_")):
        return by_flag
    if named is None and shape.tied and part is Part.EMBEDDING:
        named = wishes.output  # the embedding is the output matrix as well
    if named is not None:
        return named
    if mix is None:
        return tensor.type
    if wishes.pure or mix.base in FLOATS:
        return mix.base
    return mixed_type(mix, name, tensor.shape, shape, values_before, values)


def _check_source(gguf: GGUFFile, tensor: Tensor, wishes: Wishes) -> None:
    if tensor.type not in (*FLOATS, GGMLType.F64) and not wishes.requantize:
        raise PowerInferError(
            f"{gguf.path}: {shown_name(tensor.name)} is {tensor.type.name} already, and quantising it anew loses more "
            "than once: start from an F16, BF16 or F32 file, or give --allow-requantize"
        )


def _importance_of(tensor: Tensor, importance: Importance | None) -> Floats | None:
    found = None if importance is None else importance.of.get(tensor.name)
    if found is None or importance is None:
        return None
    n_experts = tensor.shape[0] if len(tensor.shape) > 2 else 1
    if found.size != n_experts * tensor.shape[-1]:
        if part_of(tensor.name) is Part.EMBEDDING:
            return None
        raise PowerInferError(
            f"{importance.path}: has {found.size} numbers for {shown_name(tensor.name)}, which needs "
            f"{n_experts * tensor.shape[-1]}: it was made for another model"
        )
    return found.reshape(n_experts, -1)


def _check_importance(gguf: GGUFFile, change: Change, mix: Mix | None) -> None:
    part, kind = part_of(change.tensor.name), change.kind
    needs = kind in NEEDS_IMPORTANCE or (kind is GGMLType.Q2_K and mix is not None and mix.name == "Q2_K_S")
    if needs and change.importance is None and part not in (Part.EMBEDDING, Part.OUTPUT):
        raise PowerInferError(
            f"{gguf.path}: {shown_name(change.tensor.name)} as {kind.name} would be garbage without knowing which "
            "columns matter: give --imatrix FILE (made by `powerinfer imatrix`)"
        )


def write_quantized(
    gguf: GGUFFile,
    path: Path,
    changes: Sequence[Change],
    mix: Mix | None,
    *,
    importance: Importance | None = None,
    threads: int = 1,
    keep_split: bool = False,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write it; the same bytes with any number of threads. At most NUMBERS_AT_ONCE of a tensor are in memory.

    keep_split: as many parts as the input has, named after `path`, and all or none of them. Returns what was written.

    Raises:
        PowerInferError: `path` is the input or cannot be written; a number does not fit its type.
    """
    parts = target_parts(gguf, path, keep_split=keep_split)
    prepare_encoding(change.kind for change in changes)
    total, done = sum(change.nbytes for change in changes), 0
    changed = any(change.kind is not change.tensor.type for change in changes)
    with ExitStack() as together, ThreadPoolExecutor(threads) as pool:
        for number, (target, part) in enumerate(parts.items()):
            some = [change for change in changes if part in (None, change.tensor.path)]
            rewrite_gguf(
                gguf,
                target,
                dropped=("quantize.imatrix.",) if changed else (),
                added=_added(mix, importance) if number == 0 else {},
                tensors=[retyped_stream(change, pool) for change in some],
                sparse=gguf.sparse,
                part=part,
                until=together,
                on_bytes=partial(_tell, on_bytes, done, total),
            )
            done += sum(change.nbytes for change in some)
    return list(parts)


def target_parts(gguf: GGUFFile, path: Path, *, keep_split: bool) -> dict[Path, Path | None]:
    """Files that would be written, and the input's part whose tensors each has; None: it has all.

    Raises PowerInferError: one is the input itself.
    """
    parts: dict[Path, Path | None] = {path: None}
    if keep_split and len(gguf.files) > 1:
        count = len(gguf.files)
        names = (f"{path.stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
        parts = {path.with_name(name): source for name, source in zip(names, gguf.files, strict=True)}
    for target in parts:
        if any(same_file(target, source) for source in gguf.files):
            raise PowerInferError(f"{target}: is the input itself: give another name for the output")
    return parts


def _tell(on_bytes: Callable[[int, int], None], before: int, total: int, here: int, _: int) -> None:
    """Of all parts, where one of them tells of itself."""
    on_bytes(before + here, total)


def _added(mix: Mix | None, importance: Importance | None) -> dict[str, AddedValue]:
    """The keys that llama-quantize writes."""
    added: dict[str, AddedValue] = {"general.quantization_version": QUANTIZATION_VERSION}
    if mix is not None:
        added["general.file_type"] = mix.number
    if importance is not None:
        added["quantize.imatrix.file"] = importance.path.name
        if importance.datasets:
            added["quantize.imatrix.dataset"] = importance.datasets[0]
        added["quantize.imatrix.entries_count"] = len(importance.of)
        added["quantize.imatrix.chunks_count"] = importance.n_chunks
    return added


def retyped_stream(change: Change, pool: ThreadPoolExecutor) -> StreamedTensor:
    """The tensor in its new type, made while it is written, by the pool's threads."""
    tensor = change.tensor
    if change.kind is tensor.type:
        return streamed(tensor)
    return StreamedTensor(tensor.name, change.kind, tensor.shape, partial(_pieces, change, pool))


def _pieces(change: Change, pool: ThreadPoolExecutor) -> Iterator[Bytes]:
    change = replace(change, tensor=change.tensor.kept())
    tensor, n_cols = change.tensor, change.tensor.shape[-1]
    per_thread = PER_THREAD_PLAIN if change.kind in FLOATS else PER_THREAD
    at_once, step = max(1, NUMBERS_AT_ONCE // n_cols), max(1, per_thread // n_cols)
    for begin in range(0, tensor.n_rows, at_once):
        end = min(begin + at_once, tensor.n_rows)
        parts = [(start, min(start + step, end)) for start in range(begin, end, step)]
        yield from pool.map(partial(_encoded, change), *zip(*parts, strict=True))
        tensor.drop_pages(begin * tensor.row_bytes, end * tensor.row_bytes)


def _encoded(change: Change, begin: int, end: int) -> Bytes:
    """Rows, of one expert or several."""
    tensor, weights = change.tensor, change.importance
    stored = tensor.rows()[begin:end]
    try:
        if weights is None:
            return encode_rows(stored, tensor.type, change.kind)
        of_expert = tensor.n_rows // len(weights)
        ends = [*range((begin // of_expert + 1) * of_expert, end, of_expert), end]
        parts = zip([begin, *ends[:-1]], ends, strict=True)
        made = [
            encode_rows(stored[a - begin : b - begin], tensor.type, change.kind, weights[a // of_expert])
            for a, b in parts
        ]
        return np.concatenate(made)
    except PowerInferError as error:
        raise PowerInferError(f"{tensor.path}: {shown_name(tensor.name)}: {error}") from error
