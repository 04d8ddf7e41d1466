"""Which neurons count as active."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import UsageError
from powerinfer_cli.kernels.cpu.largest import keep_largest, least_of_largest
from powerinfer_cli.model import ModelConfig

__all__ = ["ActiveRule"]


@dataclass(frozen=True)
class ActiveRule:
    """density None: those that are not 0 (ReLU). Else, for each token, this share of all, those of the largest size:
    at least one neuron.
    """

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
        least = least_of_largest(activations, self._count(activations))
        chosen: npt.NDArray[np.bool_] = np.abs(activations) >= least[:, None]
        return chosen

    def apply(self, activations: npt.NDArray[np.float32]) -> None:
        """Of activations [T, n_ff] those that are not active become 0, in place."""
        if self.density is not None:
            keep_largest(activations, self._count(activations))

    def _count(self, activations: npt.NDArray[np.float32]) -> int:
        n_ff: int = activations.shape[1]
        return max(1, math.ceil((self.density or 1) * n_ff))
