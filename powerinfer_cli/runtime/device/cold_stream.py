"""Long prompts: a layer's cold neurons pass through the GPU, a chunk of them after the other, and are gone again.

While one chunk is computed, the next is on its way: two slots take turns, each with a pinned buffer and one on the GPU.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import Neurons
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Link
from powerinfer_cli.runtime.device.staging import Stage, copy_stream
from powerinfer_cli.runtime.device.weights import DeviceLayer

__all__ = ["STREAM_BYTES", "ColdStream", "FileNeurons", "neuron_bytes", "streamable"]

STREAM_BYTES = 8 << 20
"""Of a slot: a chunk has as many neurons as fit."""

Numbers: TypeAlias = npt.NDArray[np.int32]
FileNeurons: TypeAlias = Neurons[gguf_io.Tensor, gguf_io.Tensor]


def neuron_bytes(model: Model) -> int:
    """Bytes of the largest neuron's rows in the file."""
    neurons = [layer.ffn.neurons for layer in model.layers if layer.ffn.neurons.transposed]
    return max((sum(one.row_bytes for one in rows.matrices) for rows in neurons), default=0)


def streamable(model: Model) -> bool:
    """Whether neurons' rows lie in the file. Rows that are made of it would be made anew for each chunk."""
    neurons = [layer.ffn.neurons for layer in model.layers if layer.ffn.neurons.transposed]
    return not any(isinstance(rows.down.weight, gguf_io.MadeTensor) for rows in neurons)


class ColdStream:
    """Two slots on one device, for all of its layers."""

    def __init__(self, link: Link, largest_neuron: int) -> None:
        """largest_neuron: bytes of a neuron's rows in the file."""
        size = max(STREAM_BYTES, largest_neuron)
        self._link, self._size = link, size
        self._stages = [Stage(link, size) for _ in range(2)]
        self._copies = copy_stream(link.device)

    def run(self, neurons: FileNeurons, numbers: Numbers, layer: DeviceLayer, flow: DeviceFlow, n: int) -> None:
        """flow.cold [T, n_embd] = what the cold neurons, `numbers`, of a layer make of flow.normed, down's bias
        included.
        """
        count = max(1, self._size // sum(one.row_bytes for one in neurons.matrices))
        flow.cold[:n].zero_()
        for turn, begin in enumerate(range(0, len(numbers), count)):
            chosen = numbers[begin : begin + count]
            stage = self._stages[turn % 2]
            stage.send([(one, chosen) for one in neurons.matrices], self._copies)
            rows = stage.arrive()
            some = neurons.map_rows(
                lambda _: next(rows),  # noqa: B023  # they are brought before the next chunk
                lambda one: self._vector(one.to_float32()[chosen]),  # noqa: B023
                lambda one: self._vector(one.to_float32()),
            )
            begins = layer.n_hot + begin
            flow.add_chunk(layer, some, slice(begins, begins + len(chosen)), n)
            stage.release()
        if neurons.down.bias is not None:
            flow.cold[:n].add_(self._vector(neurons.down.bias.to_float32()))

    def _vector(self, numbers: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.array(numbers)).to(self._link.device)
