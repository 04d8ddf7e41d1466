"""Muon for many small matrices: those of one shape are orthogonalised together."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_STEPS = ((3.4445, -4.7750, 2.0315),) * 5


class StackedMuon(torch.optim.Optimizer):
    """torch.optim.Muon's step (Nesterov, its defaults) in a few operations a shape, not some twenty a matrix."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody computes a loss anew here
        """One step on all matrices that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                shapes[parameter.shape].append(parameter)
            for (rows, columns), parameters in shapes.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                kept = [self._momentum(p) for p in parameters]
                torch._foreach_lerp_(kept, gradients, 1 - group["momentum"])
                updates = torch._foreach_lerp(gradients, kept, group["momentum"])
                rate = group["lr"] * math.sqrt(max(1, rows / columns))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(_orthogonal(torch.stack(updates))), alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def _orthogonal(stack: Tensor) -> Tensor:
    """Of matrices [n, rows, columns] the nearest with orthogonal rows or columns, about (Newton-Schulz)."""
    x = stack.bfloat16()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for a, b, c in _STEPS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()
