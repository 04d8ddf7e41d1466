"""Training of the mixture: a term that keeps experts in use, and no more than that."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.demo_model.experts.muon import StackedMuon
from scripts.demo_model.experts.network import Network
from scripts.demo_model.training import Batch, Goal, Trainer, TrainOptions, token_loss
from scripts.demo_model.vocabulary import Vocabulary


@dataclass(frozen=True)
class ExpertOptions(TrainOptions):
    """balance: weight of Switch's term, E * sum(use * mean share), which is 1 for even use.

    0.01 a layer leaves no expert idle, and leaves use uneven: what a text is about shows in it.
    """

    balance: float = 0.01
    muon: Callable[..., torch.optim.Optimizer] = StackedMuon


class ExpertTrainer(Trainer[Network]):
    """Watches how often each expert of a layer is chosen, [n_layer, E]; even use is 1 / E."""

    def __init__(self, network: Network, vocabulary: Vocabulary, options: ExpertOptions) -> None:
        super().__init__(network, vocabulary, options)
        self.balance = options.balance
        experts = network.shape.n_experts
        self._use = torch.full((network.shape.n_layer, experts), 1 / experts)

    def goal(self, batch: Batch) -> Goal:
        """Cross-entropy and balance."""
        loss, shares, chosen, mask = token_loss(self.network, batch)
        experts = self.network.shape.n_experts
        use = torch.stack([F.one_hot(c[mask], experts).float().mean(dim=(0, 1)) for c in chosen])
        mean = torch.stack([share[mask].mean(dim=0) for share in shares])
        total = loss + self.balance * experts * (use * mean).sum()
        return Goal(total, loss, use, int(mask.sum()))

    def steer(self, watched: Tensor) -> None:
        """Remember the use; nothing is steered."""
        self._use += 0.05 * (watched - self._use)

    def told(self) -> str:
        """The least and the most used expert of each layer, beside even use."""
        use = self._use * self.network.shape.n_experts
        return "use " + " ".join(f"{layer.min():.2f}-{layer.max():.2f}" for layer in use)

    def state(self) -> dict[str, Tensor]:
        """The use."""
        return {"use": self._use}

    def restore(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self._use = state["use"].cpu()
