"""A checkpoint's tensors as the file's: which become which, stacked, moved and computed only when they are read."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint import Checkpoint
from powerinfer_cli.convert.conversion import Array, Conversion, Names, Part
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, MadeTensor, Tensor, renamed

__all__ = ["Named", "named_tensors"]

LAYER = re.compile(r"(?:.+\.)?(?:layers?|h|blocks?)\.(\d+)\.(.+)")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Tables that are computed anew, and towers of models that see or hear as well.
NOT_NEEDED = re.compile(
    r".*(\.rotary_emb\.inv_freq|\.attention\.masked_bias|\.attention\.bias|\.attn\.masked_bias)"
    r"|(model\.)?(vision_|audio_|visual|vision|audio|multi_modal_projector|embed_vision|embed_audio|mm_|vit|merger)[._].*"
)
DTYPES: dict[GGMLType, np.dtype[Any]] = {
    GGMLType.F64: np.dtype("<f8"),
    GGMLType.F32: np.dtype("<f4"),
    GGMLType.F16: np.dtype("<f2"),
    GGMLType.BF16: np.dtype("<u2"),  # its bits
    GGMLType.I64: np.dtype("<i8"),
    GGMLType.I32: np.dtype("<i4"),
    GGMLType.I16: np.dtype("<i2"),
    GGMLType.I8: np.dtype("u1"),
}
FLOATS = (GGMLType.F64, GGMLType.F32, GGMLType.F16, GGMLType.BF16)


@dataclass(frozen=True)
class Named:
    """tensors: the file's, in the types that the checkpoint has. origins: of each, the names that it had there. told:
    numbers by key, one a layer.
    """

    tensors: Mapping[str, Tensor]
    origins: Mapping[str, tuple[str, ...]]
    told: Mapping[str, list[float]]


@dataclass(frozen=True)
class _Source:
    """front: of the file's name, blk.N. in a layer. inside: the path from there, with * for `numbers` in it."""

    tensor: Tensor
    front: str
    inside: str
    numbers: tuple[int, ...]

    def beside(self, inside: str) -> tuple[str, str]:
        return self.front, inside


def named_tensors(checkpoint: Checkpoint, conversion: Conversion) -> Named:
    """Raises PowerInferError: a tensor whose name is not known, or parts of a stack that do not go together."""
    folder, names = checkpoint.folder, conversion.names(checkpoint.config)
    sources = list(_needed(checkpoint, conversion))
    places = {(source.front, source.inside): source.tensor for source in sources}
    aside = {part.beside for parts in names.values() for part in _parts(parts) if part.beside}
    groups: dict[tuple[str, int], list[tuple[_Source, Part]]] = {}
    told: dict[str, dict[str, float]] = {}
    for source in sources:
        if source.inside in conversion.told:
            told.setdefault(conversion.told[source.inside], {})[source.front] = _number(source.tensor)
        elif source.inside not in aside:
            for number, (target, part) in enumerate(_targets(folder, names, source)):
                groups.setdefault((target, number), []).append((source, part))
    tensors: dict[str, Tensor] = {}
    origins: dict[str, tuple[str, ...]] = {}
    for (target, _), members in groups.items():
        members.sort(key=lambda member: member[0].numbers)
        if target in tensors or (len(members) > 1 and not members[0][0].numbers):
            others = [*origins.get(target, ()), *(source.tensor.name for source, _ in members)]
            both = " and ".join(repr(name[:80]) for name in others[:2])
            raise PowerInferError(f"{folder}: {both} would both become {target}")
        source, part = members[0]
        scales = places.get(source.beside(part.beside)) if part.packed else None
        tensors[target] = (
            _made(folder, target, members) if part.packed is None else _packed(target, source, part, scales)
        )
        origins[target] = tuple(source.tensor.name for source, _ in members)
    by_layer = {key: [found[front] for front in sorted(found, key=_layer)] for key, found in told.items()}
    return Named(tensors, origins, by_layer)


def _layer(front: str) -> int:
    return int(front.split(".")[1]) if front else -1


def _needed(checkpoint: Checkpoint, conversion: Conversion) -> Iterator[_Source]:
    config = checkpoint.config
    tied = config.get("tie_word_embeddings", False) is True
    skipped = re.compile(conversion.skipped) if conversion.skipped else None
    n_layer = config.n_layer
    for tensor in checkpoint.tensors.values():
        path = tensor.name.replace("language_model.", "").replace("text_model.", "")
        path = conversion.renamed(config, path)
        if NOT_NEEDED.fullmatch(tensor.name) or (skipped and skipped.fullmatch(path)):
            continue
        if tied and path in ("lm_head.weight", "model.lm_head.weight"):
            continue  # the embedding is the output as well
        layer = LAYER.fullmatch(path)
        if layer and int(layer[1]) >= n_layer and not conversion.guessing:
            continue
        front, inside = (f"blk.{int(layer[1])}.", layer[2]) if layer else ("", path)
        numbers = tuple(int(digits) for digits in NUMBER.findall(inside))
        yield _Source(tensor, front, NUMBER.sub("*", inside), numbers)


def _parts(found: str | Part | tuple[Part, ...]) -> tuple[Part, ...]:
    if isinstance(found, str):
        return (Part(found),)
    return (found,) if isinstance(found, Part) else found


def _targets(folder: Path, names: Names, source: _Source) -> Iterator[tuple[str, Part]]:
    """The file's names, and what becomes of the tensor."""
    stem, _, ending = source.inside.rpartition(".")
    whole = names.get(source.inside)
    found = whole if whole is not None else names.get(stem) if ending in ("weight", "bias") else None
    if found is None:
        where, name = source.tensor.path or folder, source.tensor.name[:120]
        raise PowerInferError(f"{where}: unexpected tensor {name!r}: such a model has none of this name")
    for part in _parts(found):
        has_ending = whole is not None or part.name.endswith(".weight")
        yield f"{source.front}{part.name}" + ("" if has_ending else f".{ending}"), part


def _made(folder: Path, target: str, members: list[tuple[_Source, Part]]) -> Tensor:
    """One of one tensor, or of a stack."""
    first, part = members[0][0].tensor, members[0][1]
    stacked = bool(members[0][0].numbers)
    tensors = [source.tensor for source, _ in members]
    if any(tensor.shape != first.shape or tensor.type is not first.type for tensor in tensors):
        raise PowerInferError(f"{folder}: the parts of {target}, as {first.name[:80]!r}, differ in shape or type")
    if stacked and [source.numbers for source, _ in members] != [(i,) for i in range(len(members))]:
        raise PowerInferError(f"{folder}: of the parts of {target}, as {first.name[:80]!r}, some are missing")
    if first.type not in FLOATS:
        what = "of bytes" if first.type is GGMLType.I8 else f"of type {first.type.name}"
        raise PowerInferError(f"{first.path or folder}: tensor {first.name[:80]!r} is {what}: no weights")
    kind = GGMLType.F32 if part.computed is not None and first.type is GGMLType.BF16 else first.type
    shape = _shape(folder, first, part)
    if part.moved is None and part.computed is None and not stacked:
        return renamed(first, target, shape)

    def make() -> Array:
        """The file's pages are let go of one after the other."""
        out = np.empty((len(tensors), *shape), DTYPES[kind])
        for i, tensor in enumerate(tensors):
            out[i] = _changed(tensor, part)
            tensor.drop_pages(0, tensor.nbytes)
        return out.reshape(-1).view(np.uint8)

    return MadeTensor(target, kind, (len(members), *shape) if stacked else shape, make, first.path)


def _shape(folder: Path, tensor: Tensor, part: Part) -> tuple[int, ...]:
    """Of what becomes of a tensor, found on an array without memory."""
    array = np.broadcast_to(np.zeros((), DTYPES[tensor.type]), tensor.shape)
    try:
        shape = array.shape if part.moved is None else part.moved(array).shape
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise _misshaped(tensor, folder) from error
    return shape or (1,)


def _misshaped(tensor: Tensor, folder: Path) -> PowerInferError:
    sizes = " x ".join(map(str, tensor.shape))
    name = tensor.name[:120]
    return PowerInferError(
        f"{tensor.path or folder}: tensor {name!r} has shape {sizes}, which config.json does not allow"
    )


def _array(tensor: Tensor) -> Array:
    """In its bits."""
    return tensor.data.view(DTYPES[tensor.type]).reshape(tensor.shape)


def _changed(tensor: Tensor, part: Part) -> Array:
    array = _array(tensor)
    if part.moved is not None:
        array = part.moved(array)
    if part.computed is not None:
        array = part.computed(array if tensor.type is not GGMLType.BF16 else _from_bits(array))
    return array


def _from_bits(array: Array) -> Array:
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _number(tensor: Tensor) -> float:
    if tensor.n_elements != 1:
        raise _misshaped(tensor, Path())
    array = _array(tensor)
    return float((_from_bits(array) if tensor.type is GGMLType.BF16 else array).reshape(-1)[0])


def _packed(target: str, source: _Source, part: Part, scales: Tensor | None) -> Tensor:
    """Blocks of four bits, and the scales that lie beside them."""
    blocks, packed = source.tensor, part.packed
    assert packed is not None
    fits = (
        scales is not None and len(blocks.shape) == 4 and blocks.shape[-1] == 16 and scales.shape == blocks.shape[:-1]
    )
    if scales is None or not fits or (blocks.type, scales.type) != (GGMLType.I8, GGMLType.I8):
        raise PowerInferError(f"{blocks.path}: tensor {blocks.name[:120]!r} and its scales do not go together")
    make = partial(_pack, packed.pack, blocks, scales)
    return MadeTensor(target, GGMLType.MXFP4, packed.shape(blocks.shape), make, blocks.path)


def _pack(pack: object, blocks: Tensor, scales: Tensor) -> Array:
    assert callable(pack)
    made: Array = pack(_array(blocks), _array(scales))
    blocks.drop_pages(0, blocks.nbytes)
    return np.ascontiguousarray(made).reshape(-1)
