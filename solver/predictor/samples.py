"""What a layer's predictor learns from: residuals, and which neurons were active, a bit each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Samples", "pack", "packed_bits", "unit_halves", "unpack"]

HELD_BLOCK = 64  # neighbouring tokens are alike: they are held back together
BITS = torch.arange(8, dtype=torch.uint8)


def pack(active: Tensor) -> Tensor:
    """bool [N, n] -> uint8 [N, ceil(n / 8)], the first neuron in the lowest bit."""
    return torch.from_numpy(packed_bits(active.cpu().numpy()))


def packed_bits(active: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """As `pack`."""
    return np.packbits(active, axis=-1, bitorder="little")


def unit_halves(x: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """float [N, n] -> float16 of RMS 1: a predictor does not mind the size."""
    size = np.sqrt(np.square(x, dtype=np.float64).mean(axis=1, keepdims=True))
    unit: npt.NDArray[np.float16] = (x / np.maximum(size, 1e-12)).astype(np.float16)
    return unit


def unpack(bits: Tensor, count: int) -> Tensor:
    """uint8 [N, ceil(count / 8)] -> bool [N, count]"""
    spread = bits[..., None] >> BITS.to(bits.device) & 1
    return spread.flatten(-2)[..., :count].bool()


@dataclass(frozen=True)
class Samples:
    """inputs [N, n_embd], of any scale and float type; active uint8 [N, ceil(n_ff / 8)]."""

    inputs: Tensor
    active: Tensor
    n_ff: int

    @classmethod
    def of(cls, inputs: Tensor, activations: Tensor) -> "Samples":
        """From residuals [N, n_embd] and activations [N, n_ff], or a mask of them (active: not 0)."""
        if inputs.ndim != 2 or activations.ndim != 2 or len(inputs) != len(activations):
            shapes = tuple(inputs.shape), tuple(activations.shape)
            raise ValueError(f"residuals {shapes[0]} and activations {shapes[1]} do not belong together")
        return cls(inputs, pack(activations != 0), activations.shape[1])

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def n_embd(self) -> int:
        return self.inputs.shape[1]

    def __getitem__(self, chosen: Tensor | slice) -> "Samples":
        return Samples(self.inputs[chosen], self.active[chosen], self.n_ff)

    def unit_inputs(self) -> Tensor:
        """float32 [N, n_embd], each of RMS 1."""
        x = self.inputs.float()
        return x / x.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)

    def labels(self) -> Tensor:
        """bool [N, n_ff]"""
        return unpack(self.active, self.n_ff)

    def to(self, device: str) -> "Samples":
        return Samples(self.inputs.to(device), self.active.to(device), self.n_ff)

    def split(self, share: float) -> tuple["Samples", "Samples"]:
        """Those to train on, and `share` of them held back, in blocks spread over the text. Raises ValueError."""
        count = len(self)
        every = max(2, round(1 / share))
        block = max(1, min(HELD_BLOCK, count // (4 * every)))
        held = torch.arange(count) // block % every == every // 2
        if not held.any() or held.all():
            raise ValueError(f"cannot split {count} tokens for validation")
        return self[~held], self[held]
