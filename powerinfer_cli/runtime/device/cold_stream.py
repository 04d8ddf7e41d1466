"""Long prompts: a layer's cold neurons pass through the GPU, a chunk of them after the other, and are gone again.

While one chunk is computed, the next is on its way: two slots take turns, each with a pinned buffer and one on the GPU.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.kernels.device import PlanarRows, to_planar
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import Neurons
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Link
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
        self._slots = [_Slot(link, size) for _ in range(2)]
        cuda = link.device.type == "cuda"
        self._copies = torch.cuda.Stream(link.device) if cuda else None  # type: ignore[no-untyped-call]  # torch leaves it so

    def run(self, neurons: FileNeurons, numbers: Numbers, layer: DeviceLayer, flow: DeviceFlow, n: int) -> None:
        """flow.cold [T, n_embd] = what the cold neurons, `numbers`, of a layer make of flow.normed, down's bias
        included.
        """
        count = max(1, self._size // sum(one.row_bytes for one in neurons.matrices))
        flow.cold[:n].zero_()
        for turn, begin in enumerate(range(0, len(numbers), count)):
            chosen = numbers[begin : begin + count]
            slot = self._slots[turn % 2]
            rows = self._bring(slot, neurons.matrices, chosen)
            some = neurons.map_rows(
                lambda _: next(rows),  # noqa: B023  # they are brought before the next chunk
                lambda one: self._vector(one.to_float32()[chosen]),  # noqa: B023
                lambda one: self._vector(one.to_float32()),
            )
            begins = layer.n_hot + begin
            flow.add_chunk(layer, some, slice(begins, begins + len(chosen)), n)
            slot.release()
        if neurons.down.bias is not None:
            flow.cold[:n].add_(self._vector(neurons.down.bias.to_float32()))

    def _bring(self, slot: "_Slot", tensors: Sequence[gguf_io.Tensor], chosen: Numbers) -> Iterator[PlanarRows]:
        """The chosen rows of each tensor, on the device."""
        slot.wait()
        pieces, at = [], 0
        for tensor in tensors:
            size = len(chosen) * tensor.row_bytes
            place = slot.host[at : at + size].view(len(chosen), tensor.row_bytes)
            np.take(tensor.rows(), chosen, axis=0, out=place.numpy())
            pieces.append((at, size, tensor))
            at += size
        slot.send(at, self._copies)
        for begin, size, tensor in pieces:
            raw = slot.device[begin : begin + size].view(len(chosen), tensor.row_bytes)
            yield to_planar(raw, tensor.type, tensor.shape[-1])

    def _vector(self, numbers: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.array(numbers)).to(self._link.device)


class _Slot:
    """A buffer in main memory and its twin on the device. `host` is free again once its copy is done."""

    def __init__(self, link: Link, size: int) -> None:
        self.host = link.host(size, dtype=torch.uint8)
        self.device = torch.empty(size, dtype=torch.uint8, device=link.device)
        self._copied: torch.cuda.Event | None = None
        self._used: torch.cuda.Event | None = None
        if link.device.type == "cuda":
            self._copied, self._used = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it so
            self.release()  # whoever had this memory before may still be reading it

    def wait(self) -> None:
        """Until the last copy from `host` is done."""
        if self._copied is not None:
            self._copied.synchronize()

    def send(self, size: int, stream: "torch.cuda.Stream | None") -> None:
        """Copy the first bytes, on a stream of its own; what is launched from now on waits for them."""
        if stream is None or self._copied is None or self._used is None:
            self.device[:size].copy_(self.host[:size])
            return
        stream.wait_event(self._used)
        with torch.cuda.stream(stream):
            self.device[:size].copy_(self.host[:size], non_blocking=True)
            self._copied.record(stream)
        torch.cuda.current_stream(self.device.device).wait_event(self._copied)

    def release(self) -> None:
        """What has been launched is the last that reads the device's buffer."""
        if self._used is not None:
            self._used.record(torch.cuda.current_stream(self.device.device))
