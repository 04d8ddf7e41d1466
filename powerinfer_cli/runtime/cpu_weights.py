"""A model's weights in the layout that CPU kernels read."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.kernels.rows import WeightRows
from powerinfer_cli.kernels.sparse_token import ALWAYS, ASK, NEVER
from powerinfer_cli.model import LayerWeights, Linear, Norm, Weights
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.packer import Packer

__all__ = [
    "CPULayer",
    "CPUNorm",
    "CPUPredictor",
    "CPUWeights",
    "Projection",
    "matrices",
    "pack_weights",
    "with_scratch",
]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """rows [n, m] and bias float32 [n] or None."""

    rows: WeightRows
    bias: Floats | None


@dataclass(frozen=True)
class CPUNorm:
    """weight float32 [n], bias [n] or None."""

    weight: Floats
    bias: Floats | None


@dataclass(frozen=True)
class CPUPredictor:
    """fc1 [rank, n_embd], fc2 [n_ff, rank]; modes uint8 [n_ff]: what statistics say of each neuron."""

    fc1: WeightRows
    fc2: WeightRows
    modes: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CPULayer:
    """One layer. A sparse one has down_t [n_ff, n_embd] with the bias of n_embd, a dense one down [n_embd, n_ff]."""

    attn_norm: CPUNorm
    attn_norm_2: CPUNorm | None
    attn_q: Projection
    attn_k: Projection
    attn_v: Projection
    attn_q_norm: CPUNorm | None
    attn_k_norm: CPUNorm | None
    attn_output: Projection
    ffn_norm: CPUNorm | None
    ffn_gate: Projection | None
    ffn_up: Projection
    ffn_down: Projection | None
    ffn_down_t: Projection | None
    predictor: CPUPredictor | None


@dataclass(frozen=True)
class CPUWeights:
    """`output` shares its rows with token_embd where the file has no head of its own."""

    token_embd: WeightRows
    position_embd: WeightRows | None
    output_norm: CPUNorm
    output: Projection
    layers: tuple[CPULayer, ...]


def matrices(weights: Weights, *, predictors: bool) -> Iterator[Tensor]:
    """Every tensor that is to be packed, once."""
    yield weights.token_embd
    if weights.position_embd is not None:
        yield weights.position_embd
    if weights.output.weight is not weights.token_embd:
        yield weights.output.weight
    for layer in weights.layers:
        linears = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output, layer.ffn_gate, layer.ffn_up)
        yield from (linear.weight for linear in (*linears, layer.ffn_down, layer.ffn_down_t) if linear)
        if predictors:
            yield from (tensor for tensor in (layer.fc1, layer.fc2) if tensor is not None)


def pack_weights(
    weights: Weights, packer: Packer, activities: list[LayerActivity | None], *, predictors: bool
) -> CPUWeights:
    """Rearrange all matrices. `predictors`: whether they are wanted; `activities`: what statistics say, by layer."""
    embedding = packer.pack(weights.token_embd)
    head = weights.output
    shared = head.weight is weights.token_embd
    return CPUWeights(
        token_embd=embedding,
        position_embd=packer.pack(weights.position_embd) if weights.position_embd else None,
        output_norm=_norm(weights.output_norm),
        output=Projection(embedding if shared else packer.pack(head.weight), _vector(head.bias)),
        layers=tuple(
            _layer(layer, packer, activity, predictors)
            for layer, activity in zip(weights.layers, activities, strict=True)
        ),
    )


def _layer(layer: LayerWeights, packer: Packer, activity: LayerActivity | None, predictors: bool) -> CPULayer:
    def linear(one: Linear | None) -> Projection | None:
        return Projection(packer.pack(one.weight), _vector(one.bias)) if one else None

    def sure(one: Linear) -> Projection:
        return Projection(packer.pack(one.weight), _vector(one.bias))

    predictor = None
    if predictors and layer.fc1 is not None and layer.fc2 is not None:
        fc1, fc2 = packer.pack(layer.fc1), packer.pack(layer.fc2)
        predictor = CPUPredictor(fc1, fc2, _modes(activity, fc2.n_rows))
    return CPULayer(
        attn_norm=_norm(layer.attn_norm),
        attn_norm_2=_norm(layer.attn_norm_2) if layer.attn_norm_2 else None,
        attn_q=sure(layer.attn_q),
        attn_k=sure(layer.attn_k),
        attn_v=sure(layer.attn_v),
        attn_q_norm=_norm(layer.attn_q_norm) if layer.attn_q_norm else None,
        attn_k_norm=_norm(layer.attn_k_norm) if layer.attn_k_norm else None,
        attn_output=sure(layer.attn_output),
        ffn_norm=_norm(layer.ffn_norm) if layer.ffn_norm else None,
        ffn_gate=linear(layer.ffn_gate),
        ffn_up=sure(layer.ffn_up),
        ffn_down=linear(layer.ffn_down),
        ffn_down_t=linear(layer.ffn_down_t),
        predictor=predictor,
    )


def with_scratch(weights: CPUWeights, threads: int) -> CPUWeights:
    """The same weights; rows that each thread rearranges on use have room for so many threads."""
    changed: CPUWeights = _with_scratch(weights, threads)
    return changed


def _with_scratch(part: Any, threads: int) -> Any:
    if isinstance(part, WeightRows):
        return part.for_threads(threads)
    if isinstance(part, tuple):
        return tuple(_with_scratch(one, threads) for one in part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _with_scratch(getattr(part, f.name), threads) for f in fields(part)})
    return part


def _modes(activity: LayerActivity | None, n_ff: int) -> npt.NDArray[np.uint8]:
    modes = np.full(n_ff, ASK, np.uint8)
    if activity is not None:
        modes[:] = NEVER
        modes[activity.undecided] = ASK
        modes[activity.always] = ALWAYS
    return modes


def _norm(norm: Norm) -> CPUNorm:
    weight = _vector(norm.weight)
    assert weight is not None
    return CPUNorm(weight, _vector(norm.bias))


def _vector(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else np.ascontiguousarray(tensor.to_float32(), np.float32)
