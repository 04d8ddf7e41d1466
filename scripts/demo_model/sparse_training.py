"""Training of the ReLU network: a push towards sparsity that steers itself, layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.demo_model.network import Network
from scripts.demo_model.training import Batch, Goal, Trainer, TrainOptions, token_loss
from scripts.demo_model.vocabulary import Vocabulary


@dataclass(frozen=True)
class SparseOptions(TrainOptions):
    """The share of active neurons wanted, and between which shares of the run it is reached."""

    target_density: float = 0.09
    sparsity_start: float = 0.2
    sparsity_full: float = 0.55


def target_density(step: int, options: SparseOptions) -> float:
    """The share of active neurons wanted at a step: from one half down to the target, then held."""
    done = step / options.steps
    ramp = (done - options.sparsity_start) / (options.sparsity_full - options.sparsity_start)
    return 0.5 + (options.target_density - 0.5) * min(1.0, max(0.0, ramp))


class SparseTrainer(Trainer[Network]):
    """Watches the share of active neurons by layer; an L1 term on relu(gate) is heavier where it is too large."""

    def __init__(self, network: Network, vocabulary: Vocabulary, options: SparseOptions) -> None:
        super().__init__(network, vocabulary, options)
        self.wanted = options
        self.push = torch.full((network.shape.n_layer,), 1e-2)  # weight of the L1 term, per layer
        self._density = torch.full((network.shape.n_layer,), 0.5)

    def goal(self, batch: Batch) -> Goal:
        """Cross-entropy and push."""
        loss, _, actives, mask = token_loss(self.network, batch)
        neurons = mask.sum() * self.network.shape.n_ff
        size = torch.stack([(a.sum(-1).float() * mask).sum() for a in actives]) / neurons
        total = loss + (self.push.to(size.device) * size).sum()
        live = torch.stack([((a.detach() > 0).sum(-1) * mask).sum() for a in actives])
        return Goal(total, loss, live / neurons, int(mask.sum()))

    def steer(self, watched: Tensor) -> None:
        """Raise the push where a layer is denser than wanted, lower it where it is sparser."""
        self._density += 0.05 * (watched - self._density)
        wanted = target_density(self.step, self.wanted)
        if self.step / self.wanted.steps > self.wanted.sparsity_start:
            self.push = (self.push * torch.exp(0.05 * torch.log(self._density / wanted).clamp(-1, 1))).clamp(1e-3, 20.0)

    def told(self) -> str:
        """Densities and pushes."""
        return (
            f"density {' '.join(f'{d:.3f}' for d in self._density.tolist())} "
            f"push {' '.join(f'{p:.3g}' for p in self.push.tolist())}"
        )

    def state(self) -> dict[str, Tensor]:
        """Pushes and densities."""
        return {"push": self.push, "density": self._density}

    def restore(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.push, self._density = state["push"].cpu(), state["density"].cpu()
