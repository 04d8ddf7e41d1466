"""What a model is, as plain data that can be compared: its configuration, and its blocks with shapes for leaves."""

from dataclasses import asdict
from typing import Any

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model import Model

__all__ = ["anatomy"]


def anatomy(model: Model) -> dict[str, Any]:
    def shape(tensor: Tensor) -> tuple[int, ...]:
        return tensor.shape

    head, embedding = model.head, model.embedding
    return {
        "config": model.config,
        "layers": [asdict(layer.map(shape, shape)) for layer in model.layers],
        "head": asdict(head.map(shape, shape)),
        "embedding": (embedding.tokens.shape, embedding.offset, embedding.scale),
    }
