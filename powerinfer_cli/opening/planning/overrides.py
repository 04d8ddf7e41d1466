"""What of a model somebody keeps in main memory by hand: --cpu-moe, --n-cpu-moe, -ot."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from powerinfer_cli.errors import UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import leaves, routing_of
from powerinfer_cli.placement import ModelBytes

__all__ = ["NOTHING_KEPT", "Kept", "Override", "check_overrides", "kept_by_hand", "parse_overrides"]

Note = Callable[[str], None]


class _Side(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Override:
    """Tensors whose name the pattern, a regular expression, is found in stay in main memory; or, else, they go to a
    GPU as far as the budget goes, whatever later overrides say. text: as it was given.
    """

    pattern: re.Pattern[str]
    main_memory: bool
    text: str


@dataclass(frozen=True)
class Kept:
    """What stays in main memory. ffns: layers whose experts, or neurons, do; layers: whole ones, which are among ffns;
    head: the last norm and the head.
    """

    ffns: frozenset[int] = frozenset()
    layers: frozenset[int] = frozenset()
    head: bool = False

    def less(self, sizes: ModelBytes) -> ModelBytes:
        """What is left to be placed: of layers that stay, nothing."""
        layers = list(sizes.layers)
        for i in self.ffns:
            layers[i] = replace(layers[i], neurons=0)
        for i in self.layers:
            stays = replace(layers[i], attention=0, predictor=0, kv=0, n_pages=0, page=0, spare=0)
            layers[i] = replace(stays, shared_kv=0, shared_page=0, reads=None)
        return replace(sizes, layers=tuple(layers), head=0 if self.head else sizes.head)


NOTHING_KEPT = Kept()


def parse_overrides(texts: Iterable[str]) -> tuple[Override, ...]:
    """Of -ot: PATTERN=cpu or PATTERN=gpu each, or several by commas. Raises UsageError."""
    return tuple(_override(text) for given in texts for text in given.split(",") if text)


def _override(text: str) -> Override:
    pattern, _, side = text.rpartition("=")
    try:
        return Override(re.compile(pattern), _Side(side.lower()) is _Side.CPU, text) if pattern else _refuse(text)
    except (ValueError, re.error):
        return _refuse(text)


def _refuse(text: str) -> Override:
    raise UsageError(f"-ot {text[:60]!r}: must be a regular expression of tensors' names, =, and cpu or gpu")


def check_overrides(gguf: GGUFFile, overrides: Iterable[Override]) -> None:
    """Whether there is a GPU or not. Raises UsageError: one fits no tensor."""
    for one in overrides:
        if not any(map(one.pattern.search, gguf.tensors)):
            raise UsageError(f"-ot {one.text[:60]!r}: no tensor of {gguf.path.name} has such a name")


def kept_by_hand(
    model: Model,
    overrides: Sequence[Override],
    note: Note,
    *,
    cpu_moe: bool = False,
    n_cpu_moe: int | None = None,
) -> Kept:
    """The first override that fits a tensor counts; then cpu_moe, for all experts, or n_cpu_moe, for the first layers'.

    Raises UsageError: an override asks for what is not to be divided.
    """
    first = len(model.layers) if cpu_moe else n_cpu_moe or 0
    if first and not model.has_experts:
        note(f"{'--cpu-moe' if cpu_moe else '--n-cpu-moe'} has no effect: the model has no experts")
    tables, placed = model.embedding.tables, _names(model.head).union(*map(_names, model.layers))
    for one in overrides:
        rows = next((table.name for table in tables if one.pattern.search(table.name)), None)
        if rows is not None and not one.main_memory and not any(map(one.pattern.search, placed)):
            note(f"-ot {one.text[:60]!r} has no effect: rows of {rows} are read from main memory")
    ffns, layers = set[int](), set[int]()
    for index, layer in enumerate(model.layers):
        apart = _names(layer.ffn.neurons) if layer.ffn.divisible else set[str]()
        others = _names(layer) - apart
        if _stays(overrides, others, index):
            layers.add(index)
            ffns.add(index)
            continue
        said = {_main_memory(overrides, name) for name in apart}
        counted = index < first and routing_of(layer.ffn.selection) is not None
        if True in said or (counted and None in said):
            ffns.add(index)
    head = any(_main_memory(overrides, name) for name in _names(model.head) - {one.name for one in tables})
    return Kept(frozenset(ffns), frozenset(layers), head)


def _names(block: Any) -> set[str]:
    return {one.name for part in leaves(block) for one in part}


def _main_memory(overrides: Sequence[Override], name: str) -> bool | None:
    """Where a tensor is to be; None: nothing is said of it."""
    return next((one.main_memory for one in overrides if one.pattern.search(name)), None)


def _stays(overrides: Sequence[Override], names: set[str], layer: int) -> bool:
    """Whether all of a layer's tensors but experts stay in main memory. Raises UsageError: only some would."""
    stay = {name for name in names if _main_memory(overrides, name)}
    if stay and stay < names:
        given = next(one for one in overrides if one.main_memory and any(map(one.pattern.search, stay)))
        raise UsageError(
            f"-ot {given.text[:60]!r} takes {min(stay)} from layer {layer}, whose tensors lie together, but experts: "
            "name experts (exps=cpu) or all of them"
        )
    return bool(stay)
