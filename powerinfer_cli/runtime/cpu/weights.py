"""A model's weights in the layout that CPU kernels read."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.model import LayerWeights, Linear, Norm, Weights
from powerinfer_cli.placement import MAIN_MEMORY, Neurons, Plan, cold_neurons
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.cpu.packer import Packer, first_rows
from powerinfer_cli.runtime.modes import modes_of

__all__ = [
    "CPULayer",
    "CPUNorm",
    "CPUPredictor",
    "CPUWeights",
    "ColdLayer",
    "Projection",
    "matrices",
    "pack_weights",
    "tables",
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
class ColdLayer:
    """The cold neurons of a layer that is on a GPU otherwise: gate, up and down_t [n, n_embd], `numbers` [n].

    alone: the matrices have no other rows; else they are all of the layer's, as they lie in the file.
    """

    gate: Projection | None
    up: Projection
    down_t: Projection
    numbers: Neurons
    alone: bool


@dataclass(frozen=True)
class CPUWeights:
    """`output` shares its rows with token_embd where the file has no head of its own; None: the head is on a GPU.

    layers: those that are in main memory. cold: for each of the model's layers, what it has in main memory else.
    """

    token_embd: WeightRows
    position_embd: WeightRows | None
    output_norm: CPUNorm
    output: Projection | None
    layers: tuple[CPULayer, ...]
    cold: tuple[ColdLayer | None, ...] = ()


def matrices(weights: Weights, plan: Plan, *, predictors: bool, repack: bool) -> Iterator[Tensor]:
    """Every tensor that is to be packed, once; where only some rows will be, one as large as these."""
    yield weights.token_embd
    if weights.position_embd is not None:
        yield weights.position_embd
    if plan.output == MAIN_MEMORY and weights.output.weight is not weights.token_embd:
        yield weights.output.weight
    for layer, placed in zip(weights.layers, plan.layers, strict=True):
        if placed.device != MAIN_MEMORY:
            n_cold = layer.ffn_up.weight.shape[0] - placed.hot.size
            parts = (layer.ffn_gate, layer.ffn_up, layer.ffn_down_t) if n_cold else ()
            yield from (first_rows(part.weight, n_cold) if repack else part.weight for part in parts if part)
            continue
        linears = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output, layer.ffn_gate, layer.ffn_up)
        yield from (linear.weight for linear in (*linears, layer.ffn_down, layer.ffn_down_t) if linear)
        if predictors:
            yield from (tensor for tensor in (layer.fc1, layer.fc2) if tensor is not None)


def tables(weights: Weights) -> list[Tensor]:
    """Of which a token needs one row: embeddings, unless they are the head's weights as well."""
    found = [] if weights.output.weight is weights.token_embd else [weights.token_embd]
    return found if weights.position_embd is None else [*found, weights.position_embd]


def pack_weights(
    weights: Weights,
    packer: Packer,
    activities: list[LayerActivity | None],
    plan: Plan,
    *,
    predictors: bool,
    repack: bool,
) -> CPUWeights:
    """Rearrange all matrices that the plan leaves in main memory. `predictors`: whether they are wanted; `activities`:
    what statistics say, by layer.
    """
    embedding = packer.pack(weights.token_embd)
    position = packer.pack(weights.position_embd) if weights.position_embd else None
    output, head = None, weights.output
    if plan.output == MAIN_MEMORY:
        rows = embedding if head.weight is weights.token_embd else packer.pack(head.weight)
        output = Projection(rows, _vector(head.bias))
    layers: list[CPULayer] = []
    cold: list[ColdLayer | None] = []
    for layer, activity, placed in zip(weights.layers, activities, plan.layers, strict=True):
        left = None
        if placed.device == MAIN_MEMORY:
            layers.append(_layer(layer, packer, activity, predictors))
        elif placed.hot.size < layer.ffn_up.weight.shape[0]:
            left = _cold(layer, cold_neurons(placed.hot, layer.ffn_up.weight.shape[0]), packer, repack)
        cold.append(left)
    return CPUWeights(embedding, position, _norm(weights.output_norm), output, tuple(layers), tuple(cold))


def _cold(layer: LayerWeights, numbers: Neurons, packer: Packer, alone: bool) -> ColdLayer:
    chosen = numbers if alone else None

    def rows(linear: Linear) -> Projection:
        bias = _vector(linear.bias)
        return Projection(packer.pack(linear.weight, chosen), bias if bias is None or chosen is None else bias[chosen])

    assert layer.ffn_down_t is not None  # only sparse layers are divided
    return ColdLayer(
        gate=rows(layer.ffn_gate) if layer.ffn_gate else None,
        up=rows(layer.ffn_up),
        down_t=Projection(packer.pack(layer.ffn_down_t.weight, chosen), _vector(layer.ffn_down_t.bias)),
        numbers=numbers,
        alone=alone,
    )


def _layer(layer: LayerWeights, packer: Packer, activity: LayerActivity | None, predictors: bool) -> CPULayer:
    def linear(one: Linear | None) -> Projection | None:
        return Projection(packer.pack(one.weight), _vector(one.bias)) if one else None

    def sure(one: Linear) -> Projection:
        return Projection(packer.pack(one.weight), _vector(one.bias))

    # In the order of their use: while a matrix is read to its end, memory is asked for what lies behind it.
    q, k, v, output = sure(layer.attn_q), sure(layer.attn_k), sure(layer.attn_v), sure(layer.attn_output)
    predictor = None
    if predictors and layer.fc1 is not None and layer.fc2 is not None:
        fc1, fc2 = packer.pack(layer.fc1), packer.pack(layer.fc2)
        predictor = CPUPredictor(fc1, fc2, modes_of(activity, fc2.n_rows))
    gate, up, down_t = _neurons(layer, packer, together=predictor is not None)
    return CPULayer(
        attn_norm=_norm(layer.attn_norm),
        attn_norm_2=_norm(layer.attn_norm_2) if layer.attn_norm_2 else None,
        attn_q=q,
        attn_k=k,
        attn_v=v,
        attn_q_norm=_norm(layer.attn_q_norm) if layer.attn_q_norm else None,
        attn_k_norm=_norm(layer.attn_k_norm) if layer.attn_k_norm else None,
        attn_output=output,
        ffn_norm=_norm(layer.ffn_norm) if layer.ffn_norm else None,
        ffn_gate=gate,
        ffn_up=up,
        ffn_down=linear(layer.ffn_down),
        ffn_down_t=down_t,
        predictor=predictor,
    )


def _neurons(
    layer: LayerWeights, packer: Packer, *, together: bool
) -> tuple[Projection | None, Projection, Projection | None]:
    """Gate, up, down_t. `together`: a neuron's rows side by side. Where few are read, here and there, memory delivers
    a few long pieces faster than many short ones; where all are, it likes each matrix for itself.
    """
    linears = [one for one in (layer.ffn_gate, layer.ffn_up, layer.ffn_down_t) if one]
    if together:
        packed = packer.pack_side_by_side([one.weight for one in linears])
    else:
        packed = [packer.pack(one.weight) for one in linears]
    made = {id(one): Projection(rows, _vector(one.bias)) for one, rows in zip(linears, packed, strict=True)}
    return made.get(id(layer.ffn_gate)), made[id(layer.ffn_up)], made.get(id(layer.ffn_down_t))


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


def _norm(norm: Norm) -> CPUNorm:
    weight = _vector(norm.weight)
    assert weight is not None
    return CPUNorm(weight, _vector(norm.bias))


def _vector(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else np.ascontiguousarray(tensor.to_float32(), np.float32)
