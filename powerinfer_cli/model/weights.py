"""Strict loading: every tensor that the architecture names is there with its shape, and no other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFError, GGUFFile, Tensor, dequantize
from powerinfer_cli.model.config import ModelConfig
from powerinfer_cli.model.tensors import TensorSpec

__all__ = ["LayerWeights", "Linear", "Norm", "Weights", "load_weights"]

# Rotary tables that old converters wrote; every engine computes them instead.
IGNORED = re.compile(r"blk\.\d+\.(attn_rot_embd|attn\.rotary_emb\.inv_freq)(\.weight)?|rope\.freqs")


@dataclass(frozen=True)
class Linear:
    """weight [rows, columns], bias [rows] or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Norm:
    """weight [n], bias [n] or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class LayerWeights:
    """One layer, by llama.cpp's names. A sparse layer has ffn_down_t, fc1 and fc2; a dense one ffn_down."""

    attn_norm: Norm
    attn_norm_2: Norm | None
    attn_q: Linear
    attn_k: Linear
    attn_v: Linear
    attn_q_norm: Norm | None
    attn_k_norm: Norm | None
    attn_output: Linear
    ffn_norm: Norm | None
    ffn_gate: Linear | None
    ffn_up: Linear
    ffn_down: Linear | None
    ffn_down_t: Linear | None  # its bias has n_embd elements, as the matrix that it transposes
    fc1: Tensor | None
    fc2: Tensor | None


@dataclass(frozen=True)
class Weights:
    """A model's tensors. `output` is the token embedding where the file has no head of its own."""

    token_embd: Tensor
    position_embd: Tensor | None
    output_norm: Norm
    output: Linear
    rope_freqs: Tensor | None
    layers: tuple[LayerWeights, ...]


def load_weights(gguf: GGUFFile, config: ModelConfig) -> Weights:
    """Name a file's tensors. Nothing is read yet: tensors are views of the mapped file.

    Raises:
        PowerInferError: a missing, extra or mis-shaped tensor, which the message names.
    """
    specs = _specs(config)
    for name, spec in specs.items():
        _check(gguf, name, spec)
    for name in gguf.tensors:
        if name not in specs and not IGNORED.fullmatch(name):
            kind = "PowerInfer " if config.sparse else "dense "
            raise PowerInferError(f"{gguf.path}: unexpected tensor {name} in a {kind}{config.architecture.name} model")
    layers = tuple(_layer(gguf, config, index) for index in range(config.n_layer))
    _check_layers_alike(gguf, config)
    tensors = gguf.tensors
    embedding = tensors["token_embd.weight"]
    return Weights(
        token_embd=embedding,
        position_embd=tensors.get("position_embd.weight"),
        output_norm=Norm(tensors["output_norm.weight"], tensors.get("output_norm.bias")),
        output=Linear(tensors.get("output.weight", embedding), tensors.get("output.bias")),
        rope_freqs=tensors.get("rope_freqs.weight"),
        layers=layers,
    )


def _specs(config: ModelConfig) -> dict[str, TensorSpec]:
    arch, sizes = config.architecture, config.sizes
    specs = {spec.name: spec for spec in arch.model_tensors(sizes)}
    layer = arch.layer_tensors(sizes)
    return specs | {f"blk.{index}.{spec.name}": spec for index in range(config.n_layer) for spec in layer}


def _check(gguf: GGUFFile, name: str, spec: TensorSpec) -> None:
    tensor = gguf.tensors.get(name)
    if tensor is None:
        if spec.required:
            raise PowerInferError(f"{gguf.path}: tensor {name} is missing")
        return
    fits = len(tensor.shape) == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        want = " x ".join("any" if n is None else str(n) for n in spec.shape)
        have = " x ".join(map(str, tensor.shape))
        raise PowerInferError(f"{gguf.path}: tensor {name} has shape {have}, but the metadata asks for {want}")
    try:
        dequantize(tensor.rows()[:0], tensor.type)
    except GGUFError as error:
        raise PowerInferError(f"{gguf.path}: tensor {name} cannot hold weights: {error}") from error


def _check_layers_alike(gguf: GGUFFile, config: ModelConfig) -> None:
    """What a layer may hold or lack, all layers hold or all lack."""
    optional = [spec.name for spec in config.architecture.layer_tensors(config.sizes) if not spec.required]
    for name in optional:
        lacking = [index for index in range(config.n_layer) if f"blk.{index}.{name}" not in gguf.tensors]
        if 0 < len(lacking) < config.n_layer:
            raise PowerInferError(
                f"{gguf.path}: tensor blk.{lacking[0]}.{name} is missing, but other layers have theirs"
            )


def _layer(gguf: GGUFFile, config: ModelConfig, index: int) -> LayerWeights:
    prefix = f"blk.{index}."
    names = {name[len(prefix) :]: t for name, t in gguf.tensors.items() if name.startswith(prefix)}
    _check_together(gguf, prefix, names)
    attn_q, attn_k, attn_v = _query_key_value(names, config)
    down_t = names.get("ffn_down_t.weight")
    down_bias = names.get("ffn_down_t.bias", names.get("ffn_down.bias"))
    return LayerWeights(
        attn_norm=Norm(names["attn_norm.weight"], names.get("attn_norm.bias")),
        attn_norm_2=_norm(names, "attn_norm_2"),
        attn_q=attn_q,
        attn_k=attn_k,
        attn_v=attn_v,
        attn_q_norm=_norm(names, "attn_q_norm"),
        attn_k_norm=_norm(names, "attn_k_norm"),
        attn_output=Linear(names["attn_output.weight"], names.get("attn_output.bias")),
        ffn_norm=_norm(names, "ffn_norm"),
        ffn_gate=_linear(names, "ffn_gate"),
        ffn_up=Linear(names["ffn_up.weight"], names.get("ffn_up.bias")),
        ffn_down=_linear(names, "ffn_down"),
        ffn_down_t=None if down_t is None else Linear(down_t, down_bias),
        fc1=names.get("fc1.weight"),
        fc2=names.get("fc2.weight"),
    )


def _check_together(gguf: GGUFFile, prefix: str, names: Mapping[str, Tensor]) -> None:
    """What the tensors of a layer must agree on among themselves."""
    fc1, fc2 = names.get("fc1.weight"), names.get("fc2.weight")
    if fc1 is not None and fc2 is not None and not fc1.shape[0] == fc2.shape[1] > 0:
        raise PowerInferError(
            f"{gguf.path}: tensors {fc1.name} and {fc2.name} do not fit: ranks {fc1.shape[0]} and {fc2.shape[1]}"
        )
    if "attn_norm_2.bias" in names and "attn_norm_2.weight" not in names:
        raise PowerInferError(f"{gguf.path}: tensor {prefix}attn_norm_2.weight is missing, but its bias is there")
    if "ffn_down_t.bias" in names and "ffn_down.bias" in names:
        raise PowerInferError(f"{gguf.path}: tensors {prefix}ffn_down_t.bias and {prefix}ffn_down.bias exclude another")


def _norm(names: Mapping[str, Tensor], name: str) -> Norm | None:
    weight = names.get(f"{name}.weight")
    return None if weight is None else Norm(weight, names.get(f"{name}.bias"))


def _linear(names: Mapping[str, Tensor], name: str) -> Linear | None:
    weight = names.get(f"{name}.weight")
    return None if weight is None else Linear(weight, names.get(f"{name}.bias"))


def _query_key_value(names: Mapping[str, Tensor], config: ModelConfig) -> tuple[Linear, Linear, Linear]:
    """The three projections, cut from the fused one by rows where the file has that."""
    fused = _linear(names, "attn_qkv")
    if fused is None:
        q, k, v = (Linear(names[f"attn_{x}.weight"], names.get(f"attn_{x}.bias")) for x in "qkv")
        return q, k, v
    n_q, n_kv = config.sizes.n_q, config.sizes.n_kv
    cuts = (0, n_q, n_q + n_kv, n_q + 2 * n_kv)
    q, k, v = (_slice_linear(fused, start, stop) for start, stop in pairwise(cuts))
    return q, k, v


def _slice_linear(fused: Linear, start: int, stop: int) -> Linear:
    bias = None if fused.bias is None else _slice(fused.bias, start, stop)
    return Linear(_slice(fused.weight, start, stop), bias)


def _slice(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of a matrix, or elements of a vector, as a view."""
    unit, rest = divmod(tensor.nbytes, tensor.shape[0])
    if rest:
        raise PowerInferError(f"tensor {tensor.name} of type {tensor.type.name} cannot be cut by rows")
    shape = (stop - start, *tensor.shape[1:])
    return replace(
        tensor, name=f"{tensor.name}[{start}:{stop}]", shape=shape, data=tensor.data[start * unit : stop * unit]
    )
