"""The trained network and its predictors as a PowerInfer GGUF, and back into a network as the file holds it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from powerinfer_cli.gguf_io import GGMLType, GGUFFile, open_gguf, write_gguf
from scripts.demo_model.chat import CHAT_TEMPLATE, END
from scripts.demo_model.network import Layer, Network, Shape
from scripts.demo_model.vocabulary import BOS, EOS, UNK, Vocabulary
from solver.predictor import TrainedPredictor, predict

KeyValue: TypeAlias = bool | int | float | str | list[str] | npt.NDArray[np.generic]
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up")
_NORMS = ("attn_norm", "ffn_norm")
_MOSTLY_Q8_0 = 7  # llama.cpp's file type
DESCRIPTION = (
    "Storyteller writes short stories and answers questions about them. A ReGLU llama-architecture model with "
    "activation predictors, trained from scratch on stories made by a grammar."
)


class FilePredictor(nn.Module):
    """A predictor as the file holds it."""

    def __init__(self, fc1: Tensor, fc2: Tensor) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., n_ff] of residuals [..., n_embd]."""
        return predict(self.fc1, self.fc2, x)


def vocabulary_keys(vocabulary: Vocabulary) -> dict[str, KeyValue]:
    """What says how text becomes ids, and chats text."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": vocabulary.pieces,
        "tokenizer.ggml.scores": np.array(vocabulary.scores, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(vocabulary.types, dtype=np.int32),
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.unknown_token_id": UNK,
        "tokenizer.ggml.eot_token_id": vocabulary.ids[END],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def metadata(shape: Shape, vocabulary: Vocabulary) -> dict[str, KeyValue]:
    """The file's key-values."""
    return {
        "general.name": "Storyteller",
        "general.description": DESCRIPTION,
        "general.license": "mit",
        "general.file_type": _MOSTLY_Q8_0,
        "general.quantization_version": 2,
        "llama.context_length": shape.n_ctx,
        "llama.embedding_length": shape.n_embd,
        "llama.block_count": shape.n_layer,
        "llama.feed_forward_length": shape.n_ff,
        "llama.attention.head_count": shape.n_head,
        "llama.attention.head_count_kv": shape.n_kv,
        "llama.attention.layer_norm_rms_epsilon": shape.eps,
        "llama.rope.dimension_count": shape.head_dim,
        "llama.rope.freq_base": shape.rope_base,
        "llama.vocab_size": len(vocabulary),
        "powerinfer.sparse_threshold": 0.0,
        **vocabulary_keys(vocabulary),
    }


def export(path: Path, network: Network, vocabulary: Vocabulary, predictors: Sequence[TrainedPredictor]) -> None:
    """Write the model: 2-D weights as Q8_0, norms as F32."""
    tensors: list[tuple[str, npt.NDArray[np.float32], GGMLType]] = []

    def add(name: str, value: Tensor) -> None:
        kind = GGMLType.Q8_0 if value.ndim == 2 else GGMLType.F32
        tensors.append((f"{name}.weight", value.detach().cpu().float().contiguous().numpy(), kind))

    add("token_embd", network.token_embd.weight)
    add("output_norm", network.output_norm.weight)
    for number, (layer, predictor) in enumerate(zip(network.layers, predictors, strict=True)):
        for name in (*_NORMS, *_MATRICES):
            add(f"blk.{number}.{name}", getattr(layer, name).weight)
        add(f"blk.{number}.ffn_down_t", layer.ffn_down.weight.T)
        add(f"blk.{number}.fc1", predictor.fc1)
        add(f"blk.{number}.fc2", predictor.fc2)
    write_gguf(path, arch="llama", metadata=metadata(network.shape, vocabulary), tensors=tensors, sparse=True)


def load_exported(path: Path, shape: Shape) -> tuple[Network, list[FilePredictor]]:
    """The network with the weights that the file really holds, and its predictors (not yet switched on)."""
    network = Network(shape)
    with open_gguf(path) as gguf, torch.no_grad():
        network.token_embd.weight.copy_(_read(gguf, "token_embd"))
        network.output_norm.weight.copy_(_read(gguf, "output_norm"))
        predictors = [_load_layer(gguf, f"blk.{number}", layer) for number, layer in enumerate(network.layers)]
    return network.eval(), predictors


def _load_layer(gguf: GGUFFile, prefix: str, layer: Layer) -> FilePredictor:
    for name in (*_NORMS, *_MATRICES):
        getattr(layer, name).weight.copy_(_read(gguf, f"{prefix}.{name}"))
    layer.ffn_down.weight.copy_(_read(gguf, f"{prefix}.ffn_down_t").T)
    return FilePredictor(_read(gguf, f"{prefix}.fc1"), _read(gguf, f"{prefix}.fc2"))


def _read(gguf: GGUFFile, name: str) -> Tensor:
    return torch.from_numpy(gguf.tensors[f"{name}.weight"].to_float32().copy())
