"""Profiling: which neurons were active how often while a text ran through a model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Profile", "count_active"]


def count_active(activations: Tensor) -> Tensor:
    """How often each neuron was active (not 0) over activations [..., n_ff]; int64 [n_ff]."""
    return (activations != 0).flatten(0, -2).sum(dim=0, dtype=torch.int64)


@dataclass
class Profile:
    """Counts of active neurons by layer, over any number of batches."""

    tokens: int = 0
    counts: list[Tensor] = field(default_factory=list)

    def add(self, activations: list[Tensor]) -> None:
        """Count one batch: for each layer the activations [tokens, n_ff]. Every layer must see the same tokens."""
        if len({len(layer) for layer in activations}) != 1:
            raise ValueError("every layer must have the same number of tokens")
        fresh = [count_active(layer).cpu() for layer in activations]
        if self.counts and len(self.counts) != len(fresh):
            raise ValueError(f"{len(fresh)} layers after {len(self.counts)}")
        self.counts = [old + new for old, new in zip(self.counts, fresh, strict=True)] if self.counts else fresh
        self.tokens += len(activations[0])

    def density(self) -> list[float]:
        """Mean share of active neurons per layer, 0..1."""
        return [counts.sum().item() / max(1, self.tokens * counts.numel()) for counts in self.counts]
