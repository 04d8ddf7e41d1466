"""How many bytes a token needs from memory, counted from the model: what decoding cannot do with less than."""

from collections.abc import Sequence
from dataclasses import dataclass

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor
from powerinfer_cli.model import LayerWeights, Linear, ModelConfig, Norm, Weights

__all__ = ["Traffic", "count_traffic"]


@dataclass(frozen=True)
class Traffic:
    """Bytes. `always`: read for every token. `gate`, `neurons`: of all sparse layers, if every neuron were active."""

    always: int
    gate: int  # rows that are read of a neuron once it is predicted active
    neurons: int  # the other rows, which are read once it has fired
    position: int  # keys and values of one position of the context

    def per_token(self, positions: float, predicted: float = 1.0, fired: float = 1.0) -> float:
        """With so many positions attended to, and these shares (0..1) of the neurons predicted active, and non-zero."""
        return self.always + positions * self.position + predicted * self.gate + fired * self.neurons


def count_traffic(weights: Weights, config: ModelConfig, type_k: str, type_v: str, asked: Sequence[int]) -> Traffic:
    """Count a model's bytes, in the types of its file. `asked`: neurons per layer that the predictor is asked about.

    Every matrix counts once, but of the embedding one row is read, and of a sparse FFN the rows of active neurons.
    Without a gate (opt, falcon), the up matrix takes its place.
    """
    always = weights.token_embd.row_bytes + _norm(weights.output_norm) + _linear(weights.output)
    if weights.position_embd is not None:
        always += weights.position_embd.row_bytes
    gate = neurons = 0
    for index, layer in enumerate(weights.layers):
        always += _attention(layer)
        if layer.ffn_down_t is None:
            always += sum(_linear(part) for part in (layer.ffn_gate, layer.ffn_up, layer.ffn_down))
            continue
        always += _predictor(layer, asked[index])
        first, *rest = (part for part in (layer.ffn_gate, layer.ffn_up, layer.ffn_down_t) if part is not None)
        gate += _linear(first)
        neurons += sum(_linear(part) for part in rest)
    n_kv = config.n_head_kv * config.head_dim
    position = config.n_layer * (_row_bytes(n_kv, type_k) + _row_bytes(n_kv, type_v))
    return Traffic(always, gate, neurons, position)


def _attention(layer: LayerWeights) -> int:
    linears = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output)
    norms = (layer.attn_norm, layer.attn_norm_2, layer.attn_q_norm, layer.attn_k_norm, layer.ffn_norm)
    return sum(map(_linear, linears)) + sum(map(_norm, norms))


def _predictor(layer: LayerWeights, asked: int) -> int:
    """fc1, and fc2's rows of the neurons that are asked about."""
    assert layer.fc1 is not None  # a layer with ffn_down_t has a predictor: load_weights sees to it
    assert layer.fc2 is not None
    return layer.fc1.nbytes + asked * layer.fc2.row_bytes


def _linear(linear: Linear | None) -> int:
    return 0 if linear is None else linear.weight.nbytes + _size(linear.bias)


def _norm(norm: Norm | None) -> int:
    return 0 if norm is None else norm.weight.nbytes + _size(norm.bias)


def _size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.nbytes


def _row_bytes(n: int, cache_type: str) -> int:
    block_size, block_bytes = BLOCK[GGMLType[cache_type.upper()]]
    return -(-n // block_size) * block_bytes
