"""Long prompts: a layer's cold neurons, or experts, pass through the GPU, a chunk after the other, and are gone again.

While one chunk is computed, the next is on its way: two slots take turns, each with a pinned buffer and one on the GPU.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.placement import group_rows
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Link, make_stream
from powerinfer_cli.runtime.device.staging import Stage
from powerinfer_cli.runtime.device.weights import DeviceLayer, FileFFN, FileNeurons

__all__ = ["STREAM_BYTES", "ColdStream", "streamable", "streamed_bytes"]

STREAM_BYTES = 8 << 20
"""Of a slot: a chunk has as many neurons as fit."""

Numbers: TypeAlias = npt.NDArray[np.int32]


def streamed_bytes(model: Model) -> int:
    """Bytes of a slot: of a chunk, or of the largest neuron, or expert, in the file."""
    ffns = [layer.ffn for layer in model.layers if layer.ffn.divisible]
    return max(STREAM_BYTES, *(sum(one.nbytes for one in ffn.neurons.matrices) // ffn.n_groups for ffn in ffns), 0)


def streamable(model: Model) -> bool:
    """Whether neurons' and experts' rows lie in the file. Rows made of it would be made anew for each chunk."""
    matrices = [one for layer in model.layers if layer.ffn.divisible for one in layer.ffn.neurons.matrices]
    return all(one.has_rows for one in matrices)


class ColdStream:
    """Two slots on one device, for all of its layers."""

    def __init__(self, link: Link, size: int) -> None:
        """size: bytes of a slot."""
        self._link, self._size = link, size
        self._stages = [Stage(link, size) for _ in range(2)]
        self._copies = make_stream(link.device)

    def run(self, neurons: FileNeurons, numbers: Numbers, layer: DeviceLayer, flow: DeviceFlow, n: int) -> None:
        """flow.ffn.cold [T, n_embd] = what the cold neurons, `numbers`, of a layer make of flow.normed, down's bias
        included.
        """
        count = max(1, self._size // sum(one.row_bytes for one in neurons.matrices))
        flow.ffn.cold[:n].zero_()
        for turn, begin in enumerate(range(0, len(numbers), count)):
            chosen = numbers[begin : begin + count]
            stage = self._stages[turn % 2]
            stage.send([(one, chosen) for one in neurons.matrices], self._copies)
            rows = stage.arrive()
            some = neurons.map_rows(
                lambda _: next(rows),  # noqa: B023  # they are brought before the next chunk
                lambda one: self._vector(one.to_float32()[chosen]),  # noqa: B023  # likewise
                lambda one: self._vector(one.to_float32()),
            )
            begins = layer.n_hot + begin
            flow.ffn.add_chunk(layer, some, slice(begins, begins + len(chosen)), n)
            stage.release()
        if neurons.down.bias is not None:
            flow.ffn.cold[:n].add_(self._vector(neurons.down.bias.to_float32()))

    def run_experts(
        self, ffn: FileFFN, chosen: npt.NDArray[np.int64], cold: Numbers, layer: DeviceLayer, flow: DeviceFlow, n: int
    ) -> None:
        """Where the flow has its sum: what the experts `cold` make of what the layer's read; chosen [T, n_chosen]: each
        token's.
        """
        routed = routing_of(layer.block.ffn.selection)
        assert routed is not None
        neurons, weights = ffn.neurons, flow.ffn.chosen(routed).weights[:n].flatten()
        room = flow.ffn.experts_of(layer)
        room.cold[:n].zero_()
        for turn, expert in enumerate(np.intersect1d(chosen, cold)):
            numbers = np.array([expert], np.int32)
            pieces = [(one, group_rows(numbers, ffn.n_groups, one.shape[0])) for one in neurons.matrices]
            stage = self._stages[turn % 2]
            stage.send(pieces, self._copies)
            rows = stage.arrive()

            def vector(one: gguf_io.Tensor, numbers: Numbers = numbers) -> Tensor:
                return self._vector(one.to_float32()[group_rows(numbers, ffn.n_groups, one.shape[0])])

            one = neurons.map(lambda _: next(rows), vector)  # noqa: B023  # they are brought before the next expert
            pairs = np.flatnonzero(chosen == expert)
            tokens, own = (torch.from_numpy(at).to(self._link.device) for at in (pairs // chosen.shape[1], pairs))
            on_input = routed.router.on_input
            flow.ops.add_expert(room.seen[:n], tokens, weights[own], one, room.cold[:n], on_input=on_input)
            stage.release()

    def _vector(self, numbers: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.array(numbers)).to(self._link.device)
