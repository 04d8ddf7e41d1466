"""The trained mixture as a GGUF of qwen3moe, and back into a network as the file holds it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from powerinfer_cli.gguf_io import GGMLType, open_gguf, write_gguf
from scripts.demo_model.experts.network import Network, Shape
from scripts.demo_model.export import KeyValue, vocabulary_keys
from scripts.demo_model.vocabulary import Vocabulary

__all__ = ["export", "load_exported"]

ARCH = "qwen3moe"
DESCRIPTION = (
    "Storyteller with experts for neurons writes short stories and answers questions about them. Trained from scratch "
    "on stories made by a grammar: what its router does was learned."
)
_MOSTLY_Q8_0 = 7  # llama.cpp's file type
_PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_q_norm", "attn_k_norm", "attn_output", "ffn_norm")


def _keys(shape: Shape, vocabulary: Vocabulary) -> dict[str, KeyValue]:
    numbers: dict[str, KeyValue] = {
        "context_length": shape.n_ctx,
        "embedding_length": shape.n_embd,
        "block_count": shape.n_layer,
        "feed_forward_length": shape.n_ff * shape.n_chosen,
        "expert_feed_forward_length": shape.n_ff,
        "expert_count": shape.n_experts,
        "expert_used_count": shape.n_chosen,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_kv,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.eps,
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": shape.rope_base,
        "vocab_size": len(vocabulary),
    }
    general: dict[str, KeyValue] = {
        "general.name": "Storyteller with experts",
        "general.description": DESCRIPTION,
        "general.license": "mit",
        "general.file_type": _MOSTLY_Q8_0,
        "general.quantization_version": 2,
    }
    return general | {f"{ARCH}.{name}": value for name, value in numbers.items()} | vocabulary_keys(vocabulary)


def _named(network: Network) -> dict[str, Tensor | nn.ParameterList]:
    """By the file's names: weights, or the matrices that are one tensor there."""
    found: dict[str, Tensor | nn.ParameterList] = {
        "token_embd": network.token_embd.weight,
        "output_norm": network.output_norm.weight,
    }
    for number, layer in enumerate(network.layers):
        found |= {f"blk.{number}.{name}": getattr(layer, name).weight for name in _PARTS}
        found[f"blk.{number}.ffn_gate_inp"] = layer.mixture.router.weight
        found |= {f"blk.{number}.ffn_{name}_exps": getattr(layer.mixture, name) for name in ("gate", "up", "down")}
    return found


def export(path: Path, network: Network, vocabulary: Vocabulary) -> None:
    """Write the model: matrices as Q8_0, norms and routers as F32."""
    tensors = []
    for name, found in _named(network).items():
        value = torch.stack(list(found)) if isinstance(found, nn.ParameterList) else found
        plain = value.ndim == 1 or name.endswith("ffn_gate_inp")
        kind = GGMLType.F32 if plain else GGMLType.Q8_0
        tensors.append((f"{name}.weight", value.detach().cpu().float().contiguous().numpy(), kind))
    write_gguf(path, arch=ARCH, metadata=_keys(network.shape, vocabulary), tensors=tensors, sparse=False)


@torch.no_grad()
def load_exported(path: Path, shape: Shape) -> Network:
    """The network with the weights that the file really holds."""
    network = Network(shape)
    with open_gguf(path) as gguf:
        for name, found in _named(network).items():
            value = torch.from_numpy(np.array(gguf.tensors[f"{name}.weight"].to_float32()))
            for into, part in (
                zip(found, value, strict=True) if isinstance(found, nn.ParameterList) else [(found, value)]
            ):
                into.copy_(part)
    return network.eval()
