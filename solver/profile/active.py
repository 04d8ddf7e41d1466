"""Which neurons count as active."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.errors import UsageError
from powerinfer_cli.model import ModelConfig

__all__ = ["ActiveRule", "largest"]


@dataclass(frozen=True)
class ActiveRule:
    """density None: those that are not 0 (ReLU). Else, for each token, this share of all: those of the largest size."""

    density: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError: a density that is no share of all neurons."""
        if self.density is not None and not 0 < self.density <= 1:
            raise UsageError(f"the density must be above 0 and at most 1, got {self.density:g}")

    @classmethod
    def of(cls, config: ModelConfig, density: float) -> "ActiveRule":
        """A ReLU model's neurons say themselves whether they are active; of others the share `density` is."""
        return cls(None if config.activation.has_exact_zeros else density)

    @property
    def name(self) -> str:
        """For messages and for the record of what was made how."""
        return "not 0" if self.density is None else f"largest {self.density:g}"

    def mask(self, activations: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """activations [T, n_ff] -> bool [T, n_ff]"""
        if self.density is None:
            nonzero: npt.NDArray[np.bool_] = activations != 0
            return nonzero
        chosen: npt.NDArray[np.bool_] = largest(torch.tensor(activations), self.density).numpy()
        return chosen


def largest(activations: Tensor, density: float) -> Tensor:
    """bool [T, n_ff]: for each token the share `density` of the largest by size, at least one neuron."""
    sizes = activations.abs()
    count = max(1, math.ceil(density * sizes.shape[1]))
    least = sizes.topk(count, dim=1).values[:, -1:]
    return sizes >= least
