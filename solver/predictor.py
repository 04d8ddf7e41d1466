"""Training of one layer's predictor: which neurons will be active, told from the residual before the FFN norm.

The predictor is `fc2 @ relu(fc1 @ x)`, without biases, as PowerInfer's files hold it. Without biases it is positively
homogeneous: scaling x scales the logits and leaves their signs alone. So training sees every token at unit RMS,
whatever the residual's scale, and the threshold that works for every token and layer is 0. What a per-layer threshold
would do is done by the weight of the positives: the logit that minimises the weighted loss is log(weight * p / (1 -
p)), so moving the threshold by t equals multiplying the weight by exp(-t). The trainer moves the weight until "logit
>= 0" has the recall that was asked for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PredictorOptions", "PredictorReport", "TrainedPredictor", "measure", "predict", "train_predictor"]

_CHUNK = 8192  # tokens per step of a measurement


@dataclass(frozen=True)
class PredictorOptions:
    """How to train: `recall` is the target on held-back tokens; `rounds` bounds the moves of the positives' weight."""

    rank: int = 64
    recall: float = 0.97
    tolerance: float = 0.003
    epochs: int = 10
    rounds: int = 6
    batch: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    validation_share: float = 0.05
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class PredictorReport:
    """Measured on the held-back tokens; all shares are in 0..1.

    recall: predicted among the active; mass: the same, each neuron weighted by its activation; predicted_density and
    true_density: predicted / active among all neurons.
    """

    recall: float
    mass: float
    predicted_density: float
    true_density: float
    positive_weight: float
    rank: int


@dataclass(frozen=True)
class TrainedPredictor:
    """fc1 [rank, n_embd] and fc2 [n_ff, rank] in float32 on the CPU; they see the raw residual, threshold 0."""

    fc1: Tensor
    fc2: Tensor
    report: PredictorReport


def predict(fc1: Tensor, fc2: Tensor, inputs: Tensor) -> Tensor:
    """Logits [N, n_ff] of residuals [N, n_embd]."""
    return F.linear(F.relu(F.linear(inputs, fc1)), fc2)


def measure(
    fc1: Tensor, fc2: Tensor, inputs: Tensor, activations: Tensor, *, threshold: float = 0.0, weight: float = math.nan
) -> PredictorReport:
    """Report a predictor on residuals [N, n_embd] and activations [N, n_ff] (active: > 0; bool counts as 0 and 1)."""
    hits = mass = total_mass = predicted = active = 0.0
    for start in range(0, len(inputs), _CHUNK):
        values = activations[start : start + _CHUNK].to(fc1.device)
        truth = values > 0
        said = predict(fc1, fc2, inputs[start : start + _CHUNK].to(fc1.device, torch.float32)) >= threshold
        kept = values.float().clamp(min=0)
        hits += (said & truth).sum().item()
        mass += (kept * said).sum().item()
        total_mass += kept.sum().item()
        predicted += said.sum().item()
        active += truth.sum().item()
    count = max(1, activations.numel())
    return PredictorReport(
        recall=hits / active if active else 1.0,
        mass=mass / total_mass if total_mass else 1.0,
        predicted_density=predicted / count,
        true_density=active / count,
        positive_weight=weight,
        rank=fc1.shape[0],
    )


def train_predictor(inputs: Tensor, activations: Tensor, options: PredictorOptions) -> TrainedPredictor:
    """Train one layer's predictor on residuals [N, n_embd] and activations [N, n_ff] (or a bool mask of them).

    The last `validation_share` of the tokens is held back for the report and for steering. The result is the candidate
    with the least predicted density among those that meet the recall target, or the best recall if none does.
    Raises ValueError when there are too few tokens to hold any back.
    """
    held = math.ceil(len(inputs) * options.validation_share)
    if len(inputs) != len(activations) or held < 1 or held >= len(inputs):
        raise ValueError(f"cannot split {len(inputs)} residuals and {len(activations)} activations for validation")
    fit = _Fit(inputs[:-held], activations[:-held], options)
    checks = (inputs[-held:], activations[-held:])
    best: TrainedPredictor | None = None
    for turn in range(options.rounds + 1):
        fit.epochs(options.epochs if turn == 0 else 1 + options.epochs // 5)
        found = fit.result(*checks)
        best = _better(best, found, options)
        if turn and abs(found.report.recall - options.recall) <= options.tolerance:
            break
        fit.weight *= math.exp(-fit.threshold_for_recall(*checks))
    assert best is not None  # the loop ran at least once
    return best


def _better(old: TrainedPredictor | None, new: TrainedPredictor, options: PredictorOptions) -> TrainedPredictor:
    if old is None:
        return new
    wanted = options.recall - options.tolerance
    enough = [candidate for candidate in (old, new) if candidate.report.recall >= wanted]
    if enough:
        return min(enough, key=lambda candidate: candidate.report.predicted_density)
    return max((old, new), key=lambda candidate: candidate.report.recall)


class _Fit:
    """The optimisation of one predictor; `weight` multiplies the loss of the active neurons."""

    def __init__(self, inputs: Tensor, activations: Tensor, options: PredictorOptions) -> None:
        self.options = options
        self.inputs, self.activations = inputs, activations
        self.generator = torch.Generator().manual_seed(options.seed)
        n_embd, n_ff = inputs.shape[1], activations.shape[1]
        self.fc1 = self._matrix(options.rank, n_embd)
        self.fc2 = self._matrix(n_ff, options.rank)
        density = (activations > 0).float().mean().item()
        self.weight = (1 - density) / max(density, 1e-3)
        # One factor for all tokens, so that the exported predictor's logits have the size that training saw.
        self.scale = 1.0 / max(_rms(inputs.float()).mean().item(), 1e-12)
        self.optimizer = torch.optim.AdamW(
            [self.fc1, self.fc2], lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def _matrix(self, rows: int, columns: int) -> Tensor:
        values = torch.randn(rows, columns, generator=self.generator) * math.sqrt(2.0 / columns)
        return values.to(self.options.device).requires_grad_()

    def epochs(self, count: int) -> None:
        """Pass over the tokens `count` times, the learning rate falling to a tenth."""
        steps = count * math.ceil(len(self.inputs) / self.options.batch)
        step = 0
        for _ in range(count):
            order = torch.randperm(len(self.inputs), generator=self.generator)
            for start in range(0, len(order), self.options.batch):
                rate = self.options.learning_rate * (0.1 + 0.9 * (1 - step / steps))
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self._step(order[start : start + self.options.batch])
                step += 1

    def _step(self, chosen: Tensor) -> None:
        x = self.inputs[chosen].to(self.options.device, torch.float32)
        labels = (self.activations[chosen].to(self.options.device) > 0).float()
        logits = predict(self.fc1, self.fc2, x / _rms(x))
        weight = torch.tensor(self.weight, device=logits.device)
        # Divided by the weight's size, so that the step does not depend on how strongly the positives count.
        loss = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight) / (1 + self.weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def threshold_for_recall(self, inputs: Tensor, activations: Tensor) -> float:
        """The logit (at unit RMS) that the wanted share of active neurons reaches, bounded for one move to +-2."""
        x = inputs[:_CHUNK].to(self.options.device, torch.float32)
        with torch.no_grad():
            logits = predict(self.fc1, self.fc2, x / _rms(x)).cpu()
        reached = logits[activations[:_CHUNK].cpu() > 0]
        if not len(reached):
            return 0.0
        rank = min(len(reached), max(1, round((1 - self.options.recall) * len(reached))))
        return max(-2.0, min(2.0, reached.kthvalue(rank).values.item()))

    def result(self, inputs: Tensor, activations: Tensor) -> TrainedPredictor:
        """The predictor as it stands, measured."""
        fc1, fc2 = (self.fc1.detach() * self.scale).cpu(), self.fc2.detach().cpu().clone()
        return TrainedPredictor(fc1, fc2, measure(fc1, fc2, inputs, activations, weight=self.weight))


def _rms(x: Tensor) -> Tensor:
    """Root mean square of each row, [N, 1]."""
    return x.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
