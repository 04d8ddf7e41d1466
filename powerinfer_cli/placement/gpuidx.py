"""`MODEL.generated.gpuidx`: a plan in the original PowerInfer's file, with keys of ours that say what it was made for.

The original wants (llama_gpu_split_loader of its llama.cpp): magic `PWRI`; a key `split.vram_capacity` of type UINT64,
the bytes that hot neurons take, which it compares with what is left of its budget; and two tensors a layer and no
others, in the layers' order, `gpu_idx` before `gpu_bucket`, of type I32 by its number of 2023. It drops the bucket of
a layer with none or all of its neurons hot, so that an empty one is fine. Keys that it does not know it ignores.

It knows no experts. A plan of a mixture is in keys of ours alone, and has no tensors, so that the original takes it for
none of its own: how many groups (experts, or a dense layer's neurons) each layer has, how many are hot, and which.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import INDEX_ARCHITECTURE, GGMLType, GGUFFile, WritableValue, open_gguf, write_gguf
from powerinfer_cli.placement.budget import shown_bytes
from powerinfer_cli.placement.plan import LayerPlacement, Neurons, Plan

__all__ = ["Conditions", "GpuIndex", "gpuidx_path", "read_gpuidx", "stale_reason", "write_gpuidx"]

BLOCK_COUNT = f"{INDEX_ARCHITECTURE}.block_count"
VRAM_CAPACITY = "split.vram_capacity"
OURS = "powerinfer.plan."
GROUPS, HOT_COUNTS, HOT_GROUPS = f"{OURS}groups", f"{OURS}hot_counts", f"{OURS}hot_groups"
LAYER_PAGES = OURS + "layer_pages"  # of the KV cache on the GPU, -1 for all


@dataclass(frozen=True)
class Conditions:
    """What a plan was made for; where one of them is another now, the plan is stale.

    fingerprint: of the model. budgets: bytes by GPU. max_layers, shares: of `-ngl` and `--tensor-split`. scratch: bytes
    on each GPU. statistics: their fingerprint, empty without any. profile: what names the measured costs. n_cells:
    positions of the KV cache, which are more than n_ctx where sequences share it, and those of layers with a window
    where they are others; 0: not known. cache: where the KV cache is to be, empty for GPUs.
    """

    fingerprint: str
    budgets: tuple[int, ...]
    n_ctx: int
    type_k: str
    type_v: str
    scratch: int = 0
    max_layers: int | None = None
    shares: tuple[float, ...] | None = None
    statistics: str = ""
    profile: str = ""
    n_cells: int = 0
    cache: str = ""


@dataclass(frozen=True, eq=False)
class GpuIndex:
    """A file's content. conditions: None where the original PowerInfer wrote it, which does not say what it is for."""

    plan: Plan
    conditions: Conditions | None
    vram_capacity: int


def gpuidx_path(model: Path) -> Path:
    """Where the original, and we, keep a model's plan."""
    return model.with_name(model.name + ".generated.gpuidx")


def write_gpuidx(
    path: Path, plan: Plan, conditions: Conditions, n_groups: Sequence[int], vram_capacity: int, *, routed: bool = False
) -> None:
    """Write a plan, all or nothing. n_groups: neurons, or experts, by layer; routed: there are experts. vram_capacity:
    bytes of all hot ones.

    Raises:
        PowerInferError: the disk is full, the folder cannot be written; an old file is then as it was.
    """
    metadata: dict[str, WritableValue] = {
        BLOCK_COUNT: len(plan.layers),
        VRAM_CAPACITY: np.uint64(vram_capacity),
        OURS + "solver": plan.solver,
        OURS + "layer_devices": np.array([layer.device for layer in plan.layers], np.int32),
        OURS + "output_device": np.int32(plan.output),
    }
    if any(layer.pages is not None for layer in plan.layers):
        metadata[LAYER_PAGES] = np.array([-1 if one.pages is None else one.pages for one in plan.layers], np.int32)
    for name, value in asdict(conditions).items():
        if isinstance(value, tuple):
            kind = np.float64 if name == "shares" else np.uint64
            if value:  # the gguf package writes no empty array
                metadata[OURS + name] = np.array(value, kind)
        elif value is not None:
            metadata[OURS + name] = np.uint64(value) if isinstance(value, int) else value
    tensors: list[tuple[str, npt.NDArray[np.int32], GGMLType]] = []
    if routed:
        metadata |= {GROUPS: np.array(n_groups, np.int32), HOT_COUNTS: np.array(plan.hot_counts, np.int32)}
        if any(plan.hot_counts):
            metadata[HOT_GROUPS] = np.concatenate([layer.hot for layer in plan.layers])
    else:
        for index, (layer, count) in enumerate(zip(plan.layers, n_groups, strict=True)):
            chosen = np.zeros(count, np.int32)
            chosen[layer.hot] = 1
            tensors.append((f"blk.{index}.gpu_idx", chosen, GGMLType.I32))
            tensors.append((f"blk.{index}.gpu_bucket", layer.hot, GGMLType.I32))
    write_gguf(path, arch=INDEX_ARCHITECTURE, metadata=metadata, tensors=tensors, sparse=True)


def read_gpuidx(path: Path, n_groups: Sequence[int]) -> GpuIndex:
    """Read a plan for a model whose layers have so many neurons, or experts.

    Raises:
        PowerInferError: not such a file, cut short, of a model of other sizes, or saying what cannot be.
    """
    with open_gguf(path) as gguf:
        if not gguf.sparse or gguf.get("general.architecture", str, "") != INDEX_ARCHITECTURE:
            raise PowerInferError(f"{path}: not a GPU index: general.architecture is not {INDEX_ARCHITECTURE}")
        count, n_layer = gguf.get(BLOCK_COUNT, int), len(n_groups)
        if count != n_layer:
            raise PowerInferError(f"{path}: the plan of another model: of {count} layers, but the model has {n_layer}")
        routed = GROUPS in gguf.metadata
        if not routed and len(gguf.tensors) != 2 * count:
            raise PowerInferError(
                f"{path}: {len(gguf.tensors)} tensors for {count} layers, but a GPU index has two each"
            )
        try:
            if routed:
                hot = _hot_groups(gguf, n_groups)
            else:
                hot = [_hot(gguf, layer, neurons) for layer, neurons in enumerate(n_groups)]
            vram_capacity = gguf.get(VRAM_CAPACITY, int)
            if OURS + "fingerprint" not in gguf.metadata:
                return GpuIndex(_plan_of_original(hot, vram_capacity), None, vram_capacity)
            conditions = _conditions(gguf)
            return GpuIndex(_plan(gguf, hot, conditions), conditions, vram_capacity)
        except (ValueError, OverflowError) as error:
            raise PowerInferError(f"{path}: not a plan that can be: {error}") from error


def _hot(gguf: GGUFFile, layer: int, n_ff: int) -> Neurons:
    chosen, bucket = (_integers(gguf, f"blk.{layer}.{name}") for name in ("gpu_idx", "gpu_bucket"))
    if chosen.size != n_ff:
        raise ValueError(f"layer {layer} has {chosen.size} neurons, but the model's have {n_ff}")
    if not np.isin(chosen, (0, 1)).all() or not np.array_equal(np.flatnonzero(chosen), bucket):
        raise ValueError(f"gpu_idx and gpu_bucket of layer {layer} do not name the same neurons")
    return bucket


def _hot_groups(gguf: GGUFFile, n_groups: Sequence[int]) -> list[Neurons]:
    """Of a mixture, by layer."""
    keys = {key: gguf.get(key, list, []) for key in (GROUPS, HOT_COUNTS, HOT_GROUPS)}
    for key, numbers in keys.items():
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError(f"{key} must be integers")
    if keys[GROUPS] != list(n_groups):
        raise ValueError(f"{GROUPS} are of another model: its layers have other numbers of experts")
    counts, hot = keys[HOT_COUNTS], np.array(keys[HOT_GROUPS], np.int32)
    if len(counts) != len(n_groups) or min(counts) < 0 or sum(counts) != hot.size:
        raise ValueError(f"{HOT_COUNTS} and {HOT_GROUPS} do not fit each other")
    found = np.split(hot, np.cumsum(np.array(counts, np.int64))[:-1])
    for layer, (groups, count) in enumerate(zip(found, n_groups, strict=True)):
        if groups.size and groups.max() >= count:
            raise ValueError(f"an expert {groups.max()} in layer {layer}, which has only {count}")
    return found


def _integers(gguf: GGUFFile, name: str) -> Neurons:
    tensor = gguf.tensors.get(name)
    if tensor is None or tensor.type is not GGMLType.I32 or len(tensor.shape) != 1:
        raise ValueError(f"tensor {name} is missing or no vector of integers")
    return np.frombuffer(tensor.data.tobytes(), "<i4").astype(np.int32)  # a copy: the file may be replaced meanwhile


def _plan_of_original(hot: list[Neurons], vram_capacity: int) -> Plan:
    layers = tuple(LayerPlacement(0, neurons) for neurons in hot)
    return Plan((vram_capacity,), layers, 0, "frequency", "")


def _plan(gguf: GGUFFile, hot: list[Neurons], conditions: Conditions) -> Plan:
    devices = gguf.get(OURS + "layer_devices", list)
    if len(devices) != len(hot) or not all(isinstance(device, int) for device in devices):
        raise ValueError(f"{OURS}layer_devices must be {len(hot)} integers")
    pages = gguf.get(LAYER_PAGES, list, [-1] * len(hot))
    if len(pages) != len(hot) or not all(isinstance(count, int) for count in pages):
        raise ValueError(f"{LAYER_PAGES} must be {len(hot)} integers")
    rows = zip(devices, hot, pages, strict=True)
    layers = tuple(LayerPlacement(device, one, None if count == -1 else count) for device, one, count in rows)
    output, solver = gguf.get(OURS + "output_device", int), gguf.get(OURS + "solver", str)
    return Plan(conditions.budgets, layers, output, solver, conditions.fingerprint)


def _conditions(gguf: GGUFFile) -> Conditions:
    budgets = gguf.get(OURS + "budgets", list, [])
    shares = gguf.get(OURS + "shares", list, None)
    if not all(isinstance(budget, int) for budget in budgets):
        raise ValueError(f"{OURS}budgets must be integers")
    if shares is not None and not all(isinstance(share, float) and math.isfinite(share) for share in shares):
        raise ValueError(f"{OURS}shares must be numbers")
    return Conditions(
        fingerprint=gguf.get(OURS + "fingerprint", str),
        budgets=tuple(budgets),
        n_ctx=gguf.get(OURS + "n_ctx", int),
        type_k=gguf.get(OURS + "type_k", str),
        type_v=gguf.get(OURS + "type_v", str),
        scratch=gguf.get(OURS + "scratch", int),
        max_layers=gguf.get(OURS + "max_layers", int, None),
        shares=None if shares is None else tuple(shares),
        statistics=gguf.get(OURS + "statistics", str),
        profile=gguf.get(OURS + "profile", str),
        n_cells=gguf.get(OURS + "n_cells", int, 0),
        cache=gguf.get(OURS + "cache", str, ""),
    )


def stale_reason(made: Conditions | None, wanted: Conditions, *, slack: float = 0.0) -> str | None:
    """Why a plan that was made for one thing does not fit another, for people; None where it does.

    slack: by which share a budget may have grown, as a budget does that is whatever is free; it must not have shrunk.
    """
    if made is None:
        return "the original PowerInfer made it, and does not say for which model and budget"
    if made.fingerprint != wanted.fingerprint:
        return "it was made for another model"
    if not _budgets_fit(made.budgets, wanted.budgets, slack):
        return f"it was made for a budget of {_shown_budgets(made)}, and now it is {_shown_budgets(wanted)}"
    for field in fields(Conditions):
        old, new = getattr(made, field.name), getattr(wanted, field.name)
        fits = old == new or (field.name == "scratch" and old > new)
        if field.name in _TOLD and not fits:
            return _TOLD[field.name].format(old=_shown(old), new=_shown(new))
    return None


_TOLD = {
    "n_ctx": "it was made for a context of {old} tokens, and now it is {new}",
    "type_k": "it was made for a cache of keys in {old}, and now it is {new}",
    "type_v": "it was made for a cache of values in {old}, and now it is {new}",
    "scratch": "it was made for {old} bytes of scratch, and now they are {new}",
    "max_layers": "it was made for {old} layers on the GPU, and now they are {new}",
    "shares": "it was made for a tensor split of {old}, and now it is {new}",
    "statistics": "it was made from other activation statistics",
    "profile": "it was made from other measured costs",
    "cache": "it was made for a KV cache that lies elsewhere",
    "n_cells": "it was made for a KV cache of {old} positions, and now they are {new}",
}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{share:g}" for share in value)
    return "any" if value is None else str(value)


def _shown_budgets(conditions: Conditions) -> str:
    return " + ".join(shown_bytes(budget) for budget in conditions.budgets) or "no GPU"


def _budgets_fit(made: tuple[int, ...], wanted: tuple[int, ...], slack: float) -> bool:
    pairs = zip(made, wanted, strict=False)
    return len(made) == len(wanted) and all(old <= new <= old + slack * new for old, new in pairs)
