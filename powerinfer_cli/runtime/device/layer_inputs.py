"""What layers on one device get of a token beside the residual stream: made in main memory, a row of a table each."""

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import Ops, PlanarRows
from powerinfer_cli.model.blocks import InputGate
from powerinfer_cli.runtime.device.widths import Widths

__all__ = ["DeviceInputs"]


class DeviceInputs:
    """Buffers for up to n_tokens, those of a layer's inputs together."""

    def __init__(self, widths: Widths, ops: Ops, n_tokens: int, device: torch.device) -> None:
        self.ops, self.layers, self._width = ops, widths.inputs, widths.input_width
        self._places = {number: place for place, number in enumerate(widths.inputs)}
        self._inputs = torch.zeros(len(widths.inputs) * n_tokens * self._width, device=device)
        self._gate, self._value = (torch.zeros(n_tokens, self._width, device=device) for _ in range(2))

    def of(self, n: int) -> Tensor:
        """[layers that are here, T, width], of T tokens."""
        return self._inputs[: len(self.layers) * n * self._width].view(len(self.layers), n, self._width)

    def share(self, gate: InputGate[PlanarRows, Tensor], x: Tensor, out: Tensor) -> None:
        """out [T, n_embd]: what a layer makes of x [T, n_embd] and its inputs, before its norm."""
        n = len(x)
        opened, value = self._gate[:n], self._value[:n]
        self.ops.linear(gate.gate, x, opened)
        opened.mul_(gate.gain)
        self.ops.activated(opened, self.of(n)[self._places[gate.layer]], gate.activation, out=value)
        self.ops.linear(gate.output, value, out)
