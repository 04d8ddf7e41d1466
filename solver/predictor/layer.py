"""One layer's predictor: which neurons will be active, told from the residual before the FFN norm.

The predictor is `fc2 @ relu(fc1 @ x)`, without biases, as PowerInfer's files hold it. Without biases it is positively
homogeneous: scaling x scales the logits and leaves their signs alone. So training sees every token at unit RMS,
whatever the residual's scale, and the threshold that works for every token and layer is 0. What a threshold would do
is done by a part of the hidden layer that says about 1 for every token: a multiple of it is taken off all logits, until
"logit >= 0" has the recall that was asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from solver.predictor.samples import Samples
from solver.predictor.start import Residuals, Start, start_from_labels, start_from_rows

__all__ = [
    "PredictorOptions",
    "PredictorReport",
    "TrainedPredictor",
    "calibrate",
    "closed_form",
    "improve",
    "measure",
    "predict",
    "train_predictor",
]

CHUNK = 1024  # tokens per step of a measurement
WARM_UP = 30  # steps
LARGE = 1 << 20  # numbers in fc2 from which on bfloat16 products pay
LEAST_CONSTANT = 0.05  # what of "about 1 for every token" is trusted


@dataclass(frozen=True)
class PredictorOptions:
    """How to make one. `recall` is the target on other text; `margin` is added to it on held-back tokens. steps: of
    gradient descent from the closed form."""

    rank: int = 64
    recall: float = 0.95
    margin: float = 0.01
    steps: int = 0
    batch: int = 512
    positive_weight: float = 6.0
    validation_share: float = 0.05
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class PredictorReport:
    """Measured on the held-back tokens; all shares are in 0..1.

    recall: predicted among the active; mass: the same, each neuron weighted by its activation's size (only where
    activations were given, not a mask of them); predicted_density and true_density: predicted / active among all.
    """

    recall: float
    mass: float
    predicted_density: float
    true_density: float
    rank: int

    @classmethod
    def of_dense(cls, true_density: float) -> "PredictorReport":
        """Of a layer that has no predictor."""
        return cls(1.0, 1.0, 1.0, true_density, 0)

    @property
    def is_dense(self) -> bool:
        return self.rank == 0

    @property
    def excess(self) -> float:
        """Predicted density over true density."""
        return self.predicted_density / self.true_density if self.true_density else math.inf


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
    fc1: Tensor, fc2: Tensor, inputs: Tensor, activations: Tensor, *, threshold: float = 0.0
) -> PredictorReport:
    """Report a predictor on residuals [N, n_embd] and activations [N, n_ff] (active: not 0; bool counts as 0 and 1)."""
    hits = mass = total_mass = predicted = active = 0.0
    for start in range(0, len(inputs), CHUNK):
        values = activations[start : start + CHUNK].to(fc1.device).float().abs()
        truth = values > 0
        said = predict(fc1, fc2, inputs[start : start + CHUNK].to(fc1.device, torch.float32)) >= threshold
        hits += (said & truth).sum().item()
        mass += (values * said).sum().item()
        total_mass += values.sum().item()
        predicted += said.sum().item()
        active += truth.sum().item()
    count = max(1, activations.numel())
    return PredictorReport(
        recall=hits / active if active else 1.0,
        mass=mass / total_mass if total_mass else 1.0,
        predicted_density=predicted / count,
        true_density=active / count,
        rank=fc1.shape[0],
    )


def train_predictor(
    inputs: Tensor, activations: Tensor, options: PredictorOptions, rows: Tensor | None = None
) -> TrainedPredictor:
    """Make one layer's predictor from residuals [N, n_embd] and activations [N, n_ff] (or a mask of them).

    `rows` [n_ff, n_embd]: the linear map behind the neurons, where it is known. `validation_share` of the tokens is
    held back for threshold and report. Raises ValueError: too few tokens to hold any back.
    """
    train, held = Samples.of(inputs, activations).to(options.device).split(options.validation_share)
    residuals, most = Residuals(train), min(options.rank, train.n_embd)
    if rows is None:
        start = start_from_labels(residuals, most, options.seed)
    else:
        start = start_from_rows(residuals, rows, most, options.seed)
    closed = closed_form(train, held, start, options)
    return improve(train, held, closed, options) if options.steps else closed


def closed_form(train: Samples, held: Samples, start: Start, options: PredictorOptions) -> TrainedPredictor:
    """Of `options.rank`, with the threshold set on `held`, and a report on it."""
    return _finished(*start.predictor(options.rank), train, held, options)


def improve(
    train: Samples,
    held: Samples,
    closed: TrainedPredictor,
    options: PredictorOptions,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> TrainedPredictor:
    """`options.steps` steps from a predictor on; the threshold is set anew. `on_step(done, of all)` is progress."""
    fc1, fc2 = closed.fc1.to(options.device), closed.fc2.to(options.device)
    return _finished(*_optimise(fc1, fc2, train, options, on_step), train, held, options)


def _finished(fc1: Tensor, fc2: Tensor, train: Samples, held: Samples, options: PredictorOptions) -> TrainedPredictor:
    fc2 = calibrate(fc1, fc2, train, held, min(1.0, options.recall + options.margin))
    return TrainedPredictor(fc1.cpu(), fc2.cpu(), measure(fc1, fc2, held.unit_inputs(), held.labels()))


def _optimise(
    fc1: Tensor, fc2: Tensor, train: Samples, options: PredictorOptions, on_step: Callable[[int, int], None]
) -> tuple[Tensor, Tensor]:
    """AdamW with a learning rate that falls to 0; each matrix has one that fits the size of its numbers."""
    fc1, fc2 = fc1.clone().requires_grad_(), fc2.clone().requires_grad_()
    rates = (0.1 / math.sqrt(fc1.shape[1]), 0.06 / math.sqrt(fc2.shape[1]))
    groups = [{"params": [w], "lr": rate, "full": rate} for w, rate in zip((fc1, fc2), rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(options.seed)
    weight = torch.tensor(options.positive_weight, device=fc1.device)
    device = fc1.device.type
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * min(1.0, (step + 1) / WARM_UP) * (1 - step / options.steps)
        batch = train[torch.randint(len(train), (options.batch,), generator=generator).to(train.inputs.device)]
        with torch.autocast(device, torch.bfloat16, enabled=fc2.numel() >= LARGE):
            logits = predict(fc1, fc2, batch.unit_inputs())
        loss = F.binary_cross_entropy_with_logits(logits.float(), batch.labels().float(), pos_weight=weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        optimizer.step()
        on_step(step + 1, options.steps)
    return fc1.detach(), fc2.detach()


def calibrate(fc1: Tensor, fc2: Tensor, train: Samples, held: Samples, recall: float) -> Tensor:
    """fc2, less the multiple of "about 1" with which just `recall` of the held tokens' active neurons reach 0."""
    hidden = F.relu(F.linear(train[: 4 * CHUNK].unit_inputs(), fc1))
    gram = hidden.T @ hidden
    gram.diagonal().add_(1e-5 * gram.diagonal().mean() + 1e-12)
    one: Tensor = torch.linalg.solve(gram, hidden.sum(dim=0))  # hidden @ one is about 1
    reached = []
    for start in range(0, len(held), CHUNK):
        part = held[start : start + CHUNK]
        hidden = F.relu(F.linear(part.unit_inputs(), fc1))
        logits = F.linear(hidden, fc2) / (hidden @ one).clamp(min=LEAST_CONSTANT)[:, None]
        reached.append(logits[part.labels()])
    values = torch.cat(reached)
    if not len(values):
        return fc2
    rank = min(len(values), max(1, math.floor((1 - recall) * len(values))))
    # A hair lower, so that rounding on the way to a file does not lose the neuron at the threshold itself.
    threshold: Tensor = values.kthvalue(rank).values - 1e-4
    shifted: Tensor = fc2 - threshold * one
    return shifted
