"""A checkpoint as a GGUF file: put together of what its files say, checked as any file is, written piece by piece."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint import Checkpoint, Config
from powerinfer_cli.convert.conversion import Conversion
from powerinfer_cli.convert.keys import general_keys, llama3_divisors
from powerinfer_cli.convert.model_card import general_info
from powerinfer_cli.convert.naming import Named, named_tensors
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.convert.quantizing import Change, retyped_stream
from powerinfer_cli.convert.registry import conversion_of
from powerinfer_cli.convert.relu import Relu, relu_of, shifted_gates
from powerinfer_cli.convert.sparse import copy_statistics, sparse_file
from powerinfer_cli.convert.types import FILE_TYPES, MXFP4_FILE, chosen_type, stored_type
from powerinfer_cli.convert.vocabulary import vocabulary_keys
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import same_file
from powerinfer_cli.gguf_io import GGMLType, GGUFFile, MadeTensor, Strings, Tensor, stream_gguf
from powerinfer_cli.kernels.cpu.encoding import prepare_encoding
from powerinfer_cli.model import ACTIVATION_THRESHOLD, ARCHITECTURES, Activation, Model, load_model

__all__ = ["Converted", "check_apart", "convert_checkpoint", "split_parts", "write_converted"]

VERSION = 3
FILE_NAMES = {**{kind.name: number for kind, number in FILE_TYPES.items()}, "MXFP4": MXFP4_FILE}
LAYER = re.compile(r"(.*?)layers\.(\d+)\.")
NAME = re.compile(r"tensor (blk\.(\d+)\.)?([\w.]+)")


@dataclass(frozen=True)
class Converted:
    """gguf: the file as it will be, but that tensors have the checkpoint's types; types: those that they get. model: of
    it. files: that it is made of. statistics: folders where some may lie. notes: for the user, one line each.
    """

    gguf: GGUFFile
    types: Mapping[str, GGMLType]
    model: Model
    files: tuple[Path, ...]
    statistics: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> list[Change]:
        return [Change(tensor, self.types[name], self.types[name]) for name, tensor in self.gguf.tensors.items()]

    @property
    def file_name(self) -> str:
        """After the folder and what the matrices are."""
        kind = next(name for name, number in FILE_NAMES.items() if number == self.gguf.metadata["general.file_type"])
        return f"{self.gguf.path.resolve().name}-{kind}{'.powerinfer' if self.gguf.sparse else ''}.gguf"

    @property
    def summary(self) -> str:
        """In one line."""
        config = self.model.config
        size, kind = self.gguf.metadata.get("general.size_label", ""), "sparse" if self.gguf.sparse else "dense"
        kind = "with experts" if self.model.has_experts else kind
        return f"{config.architecture.name}, {size} {kind}: {config.n_layer} layers, {config.activation} neurons"


def convert_checkpoint(
    checkpoint: Checkpoint,
    wanted: OutType = OutType.AUTO,
    *,
    predictors: Path | None = None,
    vocabulary: bool = True,
) -> Converted:
    """predictors: a directory of them, for a model whose neurons have ReLU. vocabulary: False for a model without one.

    Raises:
        PowerInferError: no such model runs here; the checkpoint lacks a tensor or a number, or has one that is
            unexpected or of another shape; its tokenizer is of an unknown kind; predictors of another model.
    """
    conversion = conversion_of(checkpoint.config)
    config = checkpoint.config.with_defaults({**conversion.defaults, **_guessing(checkpoint)})
    checkpoint = Checkpoint(checkpoint.folder, config, checkpoint.tensors)
    relu = relu_of(config, ARCHITECTURES[conversion.arch])
    named = named_tensors(checkpoint, conversion)
    tensors = {tensor.name: tensor for tensor in _extra(config, conversion)} | dict(named.tensors)
    if relu is not None and relu.shift:
        tensors = shifted_gates(tensors, relu.shift)
    metadata, notes = _metadata(checkpoint, conversion, tensors, named.told, vocabulary)
    metadata |= _activation(conversion.arch, relu)
    gguf = GGUFFile(checkpoint.folder, False, VERSION, metadata, tensors)
    model = _check(gguf, named)
    if predictors is not None:
        gguf = sparse_file(gguf, model, predictors)
        model = _check(gguf, named)
    matrices = chosen_type(wanted, checkpoint.tensors.values())
    types = {name: stored_type(tensor, matrices) for name, tensor in gguf.tensors.items()}
    packed = GGMLType.MXFP4 in types.values() and matrices is not GGMLType.Q8_0
    whole = {**gguf.metadata, "general.file_type": MXFP4_FILE if packed else FILE_TYPES[matrices]}
    folders = (checkpoint.folder,) if predictors is None else (predictors, predictors.parent, checkpoint.folder)
    return Converted(
        GGUFFile(gguf.path, gguf.sparse, VERSION, whole, gguf.tensors),
        types,
        model,
        (
            *checkpoint.files,
            config.path,
            *_others(checkpoint.folder),
            *([] if predictors is None else _others(predictors)),
        ),
        folders,
        (*notes, *_short_rows(gguf, types, matrices)),
    )


def _others(folder: Path) -> list[Path]:
    """What lies in a folder that is read from, but for results of earlier runs."""
    return [path for path in folder.iterdir() if path.suffix != ".gguf" and path.is_file()]


def _activation(arch: str, relu: Relu | None) -> dict[str, Any]:
    """Keys of ours, where neurons are not as the architecture has them."""
    if relu is None or relu.kind is ARCHITECTURES[arch].activation:
        return {}
    threshold = {ACTIVATION_THRESHOLD: relu.threshold} if relu.kind is Activation.FATRELU else {}
    return {f"{arch}.hidden_activation": relu.kind.value, **threshold}


def _short_rows(gguf: GGUFFile, types: Mapping[str, GGMLType], matrices: GGMLType) -> list[str]:
    short = [name for name, kind in types.items() if kind is GGMLType.F16 is not matrices]
    if not short or matrices not in (GGMLType.Q8_0,):
        return []
    widths = ", ".join(map(str, sorted({gguf.tensors[name].shape[-1] for name in short})))
    return [f"{len(short)} tensors are F16 for {matrices.name}, whose blocks do not divide rows of {widths}"]


def _guessing(checkpoint: Checkpoint) -> dict[str, int]:
    """How many layers guess further tokens: those that are there, whatever config.json says."""
    n_layer = checkpoint.config.n_layer
    places = {(match[1], int(match[2])) for name in checkpoint.tensors if (match := LAYER.match(name))}
    return {"guessing_layers": sum(number >= n_layer or front.endswith("mtp.") for front, number in places)}


def _metadata(
    checkpoint: Checkpoint,
    conversion: Conversion,
    tensors: Mapping[str, Tensor],
    told: Mapping[str, Any],
    vocabulary: bool,
) -> tuple[dict[str, Any], list[str]]:
    config, arch = checkpoint.config, conversion.arch
    keys = (general_keys(config) if conversion.general else {}) | conversion.keys(config) | dict(told)
    own = {name.removeprefix("/") if name[0] == "/" else f"{arch}.{name}": value for name, value in keys.items()}
    words: dict[str, Any] = {}
    notes: list[str] = []
    if vocabulary:
        words, notes = vocabulary_keys(checkpoint, conversion.vocabulary)
    elif "vocab_size" in config:
        own.setdefault(f"{arch}.vocab_size", config.integer("vocab_size"))
    whole = {"general.architecture": arch, **general_info(checkpoint.folder, tensors.values()), **own, **words}
    return {name: _stored(value) for name, value in whole.items() if value is not None}, notes


def _stored(value: Any) -> Any:
    """A list as a file's reader has it."""
    if not isinstance(value, list):
        return value
    if all(isinstance(item, str) for item in value):
        return Strings.of(value)
    whole = all(isinstance(item, int) for item in value)
    kind = bool if all(isinstance(item, bool) for item in value) else np.int32 if whole else np.float32
    return np.array(value, kind)


def _extra(config: Config, conversion: Conversion) -> list[Tensor]:
    found = conversion.extra(config)
    if str(config.rope.get("rope_type")).lower() == "llama3":
        found = {"rope_freqs.weight": llama3_divisors(config), **found}
    return [
        Tensor(name, GGMLType.F32, data.shape, np.ascontiguousarray(data).reshape(-1).view(np.uint8), config.path)
        for name, data in found.items()
    ]


def _check(gguf: GGUFFile, named: Named) -> Model:
    """As a model to run, before anything is written. What is wrong is told by the checkpoint's names as well."""
    shapes = {
        name: _shape_only(tensor) if isinstance(tensor, MadeTensor) else tensor for name, tensor in gguf.tensors.items()
    }
    try:
        return load_model(GGUFFile(gguf.path, gguf.sparse, VERSION, gguf.metadata, shapes))
    except PowerInferError as error:
        there = _there(str(error), named)
        raise PowerInferError(f"{error}{f' ({there} in the checkpoint)' if there else ''}") from error


def _shape_only(tensor: Tensor) -> Tensor:
    """Without numbers that would have to be made."""
    return Tensor(tensor.name, tensor.type, tensor.shape, np.broadcast_to(np.uint8(0), tensor.nbytes), tensor.path)


def _there(message: str, named: Named) -> str:
    """What the tensor that a message names is called in the checkpoint; one that is missing, as in another layer."""
    found = NAME.search(message)
    if found is None:
        return ""
    name = f"{found[1] or ''}{found[3]}".rstrip(".")
    if name in named.origins:
        return named.origins[name][0]
    for other, origins in named.origins.items():
        if found[2] is not None and re.fullmatch(rf"blk\.\d+\.{re.escape(name.split('.', 2)[2])}", other):
            number = other.split(".")[1]
            return re.sub(rf"(?<=\.){number}(?=\.)", found[2], origins[0], count=1)
    return ""


def split_parts(converted: Converted, most_bytes: int | None) -> list[list[Change]]:
    """Tensors by file; a file has no more bytes of them than are asked for, unless one tensor alone has."""
    parts: list[list[Change]] = [[]]
    size = 0
    for change in converted.changes:
        if most_bytes is not None and parts[-1] and size + change.nbytes > most_bytes:
            parts.append([])
            size = 0
        parts[-1].append(change)
        size += change.nbytes
    return parts


def part_paths(path: Path, count: int) -> list[Path]:
    """As gguf-split names them; a file that is not divided has the name itself."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def write_converted(
    converted: Converted,
    path: Path,
    *,
    threads: int = 1,
    most_bytes: int | None = None,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """All files, or none. most_bytes: of a file's tensors, where it is to be divided. Returns what was written.

    Raises:
        PowerInferError: a path is one of the checkpoint's files or cannot be written; a number does not fit its type.
    """
    gguf, parts = converted.gguf, split_parts(converted, most_bytes)
    paths = part_paths(path, len(parts))
    check_apart(converted, paths)
    changed = [change.kind for change in converted.changes if change.kind is not change.tensor.type]
    prepare_encoding(changed)
    total, done = sum(change.nbytes for change in converted.changes), 0
    with ExitStack() as together, ThreadPoolExecutor(threads) as pool:
        for number, (target, changes) in enumerate(zip(paths, parts, strict=True)):
            before = done

            def tell(here: int, _: int, before: int = before) -> None:
                on_bytes(before + here, total)

            stream_gguf(
                target,
                metadata=_part_metadata(gguf, number, len(parts)),
                tensors=[retyped_stream(change, pool) for change in changes],
                sparse=gguf.sparse,
                until=together,
                on_bytes=tell,
            )
            done += sum(change.nbytes for change in changes)
    if gguf.sparse:
        copy_statistics(converted.statistics, path.parent)
    return paths


def check_apart(converted: Converted, paths: Sequence[Path]) -> None:
    """Raises PowerInferError: a path is one of the checkpoint's files."""
    for target in paths:
        if any(same_file(target, source) for source in converted.files):
            raise PowerInferError(f"{target}: is a file of the checkpoint itself: give another name for the output")


def _part_metadata(gguf: GGUFFile, number: int, count: int) -> dict[str, Any]:
    if count == 1:
        return dict(gguf.metadata)
    split = {
        "split.no": np.uint16(number),
        "split.count": np.uint16(count),
        "split.tensors.count": np.int32(len(gguf.tensors)),
    }
    return split if number else {**gguf.metadata, **split}
