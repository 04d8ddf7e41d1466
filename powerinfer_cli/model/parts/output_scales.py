"""Layers that multiply all that they leave in the residual stream by a number of their own.

The stream is divided by these numbers' product so far instead: so is what is added to it, and so is epsilon, by the
square, where the stream is normed, which is all that reads it.
"""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Norm
from powerinfer_cli.model.tensors import ModelReader

__all__ = ["norm_of_stream", "stream_gain"]

SCALE = "layer_output_scale.weight"
LEAST_GAIN = 1e-12  # squares of what is divided by it stay far from float32's largest numbers


def stream_gain(model: ModelReader, n_layers: int) -> float:
    """What the first so many layers multiply the residual stream by."""
    product = 1.0
    for index in range(n_layers):
        found = model.maybe(f"blk.{index}.{SCALE}", 1)
        model.note_optional(index, SCALE, found is not None)
        product *= 1.0 if found is None else float(found.to_float32()[0])
        if not LEAST_GAIN <= product <= 1 / LEAST_GAIN:
            model.fail(f"the layers' layer_output_scale make {product:g} together: not supported")
    return product


def norm_of_stream(norm: Norm[Tensor], gain: float) -> Norm[Tensor]:
    """Of the stream divided by it."""
    return replace(norm, eps=norm.eps / gain**2)
