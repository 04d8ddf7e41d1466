"""From a file's tensors to the engine's layers."""

import math
from collections.abc import Callable
from functools import partial

import torch

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.kernels.chosen_rows import NeuronRows
from powerinfer_cli.kernels.matrix import Matrix, to_float32
from powerinfer_cli.kernels.reference import layer_norm, rms_norm
from powerinfer_cli.model import LayerWeights, Linear, ModelConfig, Norm, NormKind, Weights
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.reference.ffn import FFN, DenseFFN, SparseFFN
from powerinfer_cli.runtime.reference.layer import Layer, Projection
from powerinfer_cli.runtime.stats import SparsityStats
from powerinfer_cli.runtime.threshold import sparse_threshold

__all__ = ["Builder", "resident_bytes"]


def resident_bytes(weights: Weights) -> int:
    """Bytes of float32 copies of all matrices, if none were dequantised on use."""
    total = weights.token_embd.n_elements
    if weights.output.weight is not weights.token_embd:
        total += weights.output.weight.n_elements
    for layer in weights.layers:
        linears = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output, layer.ffn_gate, layer.ffn_up)
        matrices = [linear.weight for linear in (*linears, layer.ffn_down, layer.ffn_down_t) if linear]
        total += sum(t.n_elements for t in (*matrices, layer.fc1, layer.fc2) if t is not None)
    return 4 * total


class Builder:
    """Turns weights into layers; `resident` keeps float32 copies of matrices instead of dequantising on use."""

    def __init__(self, config: ModelConfig, *, resident: bool, all_active: bool = False) -> None:
        self.config = config
        self.resident = resident
        self.threshold = -math.inf if all_active else sparse_threshold(config)

    def matrix(self, tensor: Tensor) -> Matrix:
        return Matrix(tensor, resident=self.resident)

    def projection(self, linear: Linear) -> Projection:
        return Projection(self.matrix(linear.weight), _vector(linear.bias))

    def norm(self, norm: Norm) -> Callable[[torch.Tensor], torch.Tensor]:
        weight, eps = to_float32(norm.weight), self.config.norm_eps
        if self.config.architecture.norm is NormKind.RMS:
            return partial(rms_norm, weight=weight, eps=eps)
        return partial(layer_norm, weight=weight, bias=_vector(norm.bias), eps=eps)

    def layer(self, number: int, weights: LayerWeights, stats: SparsityStats, activity: LayerActivity | None) -> Layer:
        return Layer(
            head_dim=self.config.head_dim,
            attn_norm=self.norm(weights.attn_norm),
            attn_norm_2=self.norm(weights.attn_norm_2) if weights.attn_norm_2 else None,
            attn_q=self.projection(weights.attn_q),
            attn_k=self.projection(weights.attn_k),
            attn_v=self.projection(weights.attn_v),
            attn_q_norm=self.norm(weights.attn_q_norm) if weights.attn_q_norm else None,
            attn_k_norm=self.norm(weights.attn_k_norm) if weights.attn_k_norm else None,
            attn_output=self.projection(weights.attn_output),
            ffn_norm=self.norm(weights.ffn_norm) if weights.ffn_norm else None,
            ffn=self._ffn(number, weights, stats, activity),
        )

    def _ffn(self, number: int, weights: LayerWeights, stats: SparsityStats, activity: LayerActivity | None) -> FFN:
        gate = weights.ffn_gate
        gate_matrix, gate_bias = (self.matrix(gate.weight), _vector(gate.bias)) if gate else (None, None)
        up, up_bias = self.matrix(weights.ffn_up.weight), _vector(weights.ffn_up.bias)
        relu_on_up = self.config.architecture.relu_on_up
        if weights.ffn_down is not None:
            down, down_bias = self.matrix(weights.ffn_down.weight), _vector(weights.ffn_down.bias)
            activation = self.config.activation
            return DenseFFN(gate_matrix, up, down, gate_bias, up_bias, down_bias, activation, relu_on_up)
        assert weights.ffn_down_t is not None  # load_weights lets no other layer through
        assert weights.fc1 is not None
        assert weights.fc2 is not None
        down_t = self.matrix(weights.ffn_down_t.weight)
        return SparseFFN(
            neurons=NeuronRows(gate_matrix, up, down_t, gate_bias, up_bias, relu_on_up, self.config.activation),
            fc1=self.matrix(weights.fc1),
            fc2=self.matrix(weights.fc2),
            threshold=self.threshold,
            down_bias=_vector(weights.ffn_down_t.bias),
            ask=None if activity is None else torch.from_numpy(activity.undecided),
            always=None if activity is None else torch.from_numpy(activity.always),
            layer=number,
            stats=stats,
        )


def _vector(tensor: Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else to_float32(tensor)
