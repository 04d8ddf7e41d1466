"""Long prompts: a layer's cold neurons pass through the GPU, a chunk of them after the other, and are gone again.

While one chunk is computed, the next is on its way: two slots take turns, each with a pinned buffer and one on the GPU.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.kernels.device import PlanarRows, to_planar
from powerinfer_cli.model import LayerWeights, Linear, Weights
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Link
from powerinfer_cli.runtime.device.weights import DeviceLayer

__all__ = ["STREAM_BYTES", "ColdStream", "neuron_bytes", "streamable"]

STREAM_BYTES = 8 << 20
"""Of a slot: a chunk has as many neurons as fit."""

Numbers = npt.NDArray[np.int32]


def neuron_bytes(weights: Weights) -> int:
    """Bytes of the largest neuron's rows in the file."""
    found = [0]
    for layer in weights.layers:
        linears = (layer.ffn_gate, layer.ffn_up, layer.ffn_down_t)
        found.append(sum(linear.weight.row_bytes for linear in linears if linear))
    return max(found)


def streamable(weights: Weights) -> bool:
    """Whether neurons' rows lie in the file. Rows that are made of it would be made anew for each chunk."""
    turned = (layer.ffn_down_t.weight for layer in weights.layers if layer.ffn_down_t)
    return not any(isinstance(tensor, gguf_io.MadeTensor) for tensor in turned)


class ColdStream:
    """Two slots on one device, for all of its layers."""

    def __init__(self, link: Link, largest_neuron: int) -> None:
        """largest_neuron: bytes of a neuron's rows in the file."""
        size = max(STREAM_BYTES, largest_neuron)
        self._link, self._size = link, size
        self._slots = [_Slot(link, size) for _ in range(2)]
        cuda = link.device.type == "cuda"
        self._copies = torch.cuda.Stream(link.device) if cuda else None  # type: ignore[no-untyped-call]  # torch leaves it so

    def run(self, weights: LayerWeights, numbers: Numbers, layer: DeviceLayer, flow: DeviceFlow, n: int) -> None:
        """flow.cold [T, n_embd] = what the cold neurons, `numbers`, make of flow.normed, down's bias included."""
        down = weights.ffn_down_t
        assert down is not None  # only sparse layers are divided
        linears = [linear for linear in (weights.ffn_gate, weights.ffn_up, down) if linear]
        count = max(1, self._size // sum(linear.weight.row_bytes for linear in linears))
        flow.cold[:n].zero_()
        for turn, begin in enumerate(range(0, len(numbers), count)):
            chosen = numbers[begin : begin + count]
            slot = self._slots[turn % 2]
            matrices = list(self._bring(slot, [linear.weight for linear in linears], chosen))
            gate = matrices[0] if weights.ffn_gate else None
            flow.add_chunk(
                layer,
                (gate, matrices[-2], matrices[-1]),
                (self._bias(weights.ffn_gate, chosen), self._bias(weights.ffn_up, chosen)),
                slice(layer.n_hot + begin, layer.n_hot + begin + len(chosen)),
                n,
            )
            slot.release()
        bias = self._bias(down, None)
        if bias is not None:
            flow.cold[:n].add_(bias)

    def _bring(self, slot: "_Slot", tensors: list[gguf_io.Tensor], chosen: Numbers) -> Iterator[PlanarRows]:
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

    def _bias(self, linear: Linear | None, chosen: Numbers | None) -> Tensor | None:
        if linear is None or linear.bias is None:
            return None
        values = linear.bias.to_float32()
        return torch.from_numpy(np.array(values if chosen is None else values[chosen])).to(self._link.device)


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
