"""The tensors of mixers that keep a state of a sequence."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Convolution, ShortConvolution
from powerinfer_cli.model.cuts import cut
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["MOST_INPUTS", "convolution", "short_convolution"]


def check_size(t: LayerReader, key: str, value: int, name: str, axis: int) -> None:
    """What a key says is what a tensor has. Raises PowerInferError."""
    tensor = t.model.gguf.tensors.get(f"blk.{t.index}.{name}")
    if tensor is not None and len(tensor.shape) >= -axis and tensor.shape[axis] != value:
        have = " x ".join(map(str, tensor.shape))
        t.model.fail(f"tensor {tensor.name} has shape {have}, but {t.model.arch.name}.{key} asks for {value}")


MOST_INPUTS = 64  # of a convolution


def short_convolution(t: LayerReader) -> ShortConvolution[Tensor, Tensor]:
    n = t.n_embd
    length = t.keys.integer("shortconv.l_cache", low=2, high=MOST_INPUTS)
    before, after, value = cut(t.linear("shortconv.in_proj", 3 * n, n), 0, n, 2 * n, 3 * n)
    output = t.linear("shortconv.out_proj", n, n)
    kernel = convolution(t, "shortconv.conv", n, "shortconv.l_cache", length)
    return ShortConvolution(before, after, value, kernel, output)


def convolution(t: LayerReader, name: str, channels: int, key: str, length: int) -> Convolution[Tensor]:
    """With a bias where the file has one. key: what says how long it is."""
    check_size(t, key, length, f"{name}.weight", -1)
    weight = t.tensor(f"{name}.weight", channels, length)
    flat = replace(weight, shape=(channels * length,))
    return Convolution(channels, length, flat, t.maybe(f"{name}.bias", channels))
