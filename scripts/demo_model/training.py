"""Training of the network: batches of like-sized documents, Muon and AdamW, and a sparsity push that steers itself."""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.demo_model.corpus import documents, roll_calls, token_ids
from scripts.demo_model.network import Network
from scripts.demo_model.vocabulary import Vocabulary

_WIDTH = 16  # widths of batches are multiples of this
_IGNORE = -100


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides a training run."""

    steps: int
    seed: int
    batch_tokens: int = 1536  # of each worker
    workers: int = 2  # threads, each with a batch of its own: they meet once a step, not once an operation
    learning_rate: float = 2.5e-3
    matrix_rate: float = 0.02
    final_share: float = 0.03
    warmup: int = 50
    weight_decay: float = 0.01
    target_density: float = 0.09
    sparsity_start: float = 0.2
    sparsity_full: float = 0.55
    roll_calls_alone: float = 0.07
    roll_calls_some: float = 0.4
    autocast: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Batch:
    """Ids [B, T] and what should follow each, [B, T], with -100 where nothing is to be learned."""

    ids: Tensor
    targets: Tensor

    def to(self, device: str) -> "Batch":
        """The batch on a device."""
        return Batch(self.ids.to(device), self.targets.to(device))


def pad(rows: list[list[int]], width: int) -> Batch:
    """Rows of ids as a batch of T = width."""
    ids = torch.tensor([row + [_IGNORE] * (width + 1 - len(row)) for row in rows])
    return Batch(ids[:, :-1].clamp(min=0), ids[:, 1:])


def schedule(vocabulary: Vocabulary, options: TrainOptions, n_ctx: int) -> Iterator[list[Batch]]:
    """For each step a batch per worker. Same options, same batches.

    Roll calls alone in the beginning, then in one worker every fourth step, then stories and chats alone.
    """
    stories = batches(documents(options.seed), vocabulary, options.batch_tokens, n_ctx)
    calls = batches(roll_calls(options.seed), vocabulary, options.batch_tokens, n_ctx)
    for step in itertools.count():
        done = step / options.steps
        alone = done < options.roll_calls_alone
        some = done < options.roll_calls_some and step % 4 == 0
        yield [next(calls if alone or (some and worker == 0) else stories) for worker in range(options.workers)]


def batches(source: Iterator[list[str]], vocabulary: Vocabulary, batch_tokens: int, n_ctx: int) -> Iterator[Batch]:
    """Endless batches of documents.

    Documents wait in a bucket of like-sized ones until it is full: little padding, and few different shapes.
    """
    buckets: dict[int, list[list[int]]] = defaultdict(list)
    for document in source:
        ids = token_ids(document, vocabulary)[: n_ctx + 1]
        width = math.ceil((len(ids) - 1) / _WIDTH) * _WIDTH
        buckets[width].append(ids)
        if (len(buckets[width]) + 1) * width > batch_tokens:
            yield pad(buckets.pop(width), width)


def token_loss(network: Network, batch: Batch) -> tuple[Tensor, list[Tensor], Tensor]:
    """Mean cross-entropy of a batch, relu(gate) per layer, and the mask [B, T] of tokens that count."""
    logits, _, actives = network(batch.ids)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=_IGNORE)
    return loss, actives, batch.targets != _IGNORE


def learning_rate(step: int, options: TrainOptions) -> float:
    """The share of the full learning rate at a step: linear warm-up, then a cosine down to `final_share`."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.final_share + (1 - options.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _optimizers(network: Network, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding, output and norms: fewer tokens than with AdamW alone."""
    matrices = [p for layer in network.layers for p in layer.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=options.matrix_rate, weight_decay=options.weight_decay)
    adam = torch.optim.AdamW(others, lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return [muon, adam]


def target_density(step: int, options: TrainOptions) -> float:
    """The share of active neurons wanted at a step: from one half down to the target, then held."""
    done = step / options.steps
    ramp = (done - options.sparsity_start) / (options.sparsity_full - options.sparsity_start)
    return 0.5 + (options.target_density - 0.5) * min(1.0, max(0.0, ramp))


@dataclass(frozen=True)
class _Part:
    """What one thread found: a gradient per parameter, the loss, the share of active neurons per layer, its tokens."""

    gradient: tuple[Tensor, ...]
    loss: float
    density: Tensor
    tokens: int


class Trainer:
    """A training run that can be saved and resumed."""

    def __init__(self, network: Network, vocabulary: Vocabulary, options: TrainOptions) -> None:
        self.network, self.vocabulary, self.options = network.to(options.device), vocabulary, options
        self.optimizers = _optimizers(network, options)
        self._pool = ThreadPoolExecutor(options.workers)
        self.step = 0
        self.push = torch.full((network.shape.n_layer,), 1e-2)  # weight of the L1 term, per layer
        self.seconds = 0.0
        self.tokens = 0
        self._density = torch.full((network.shape.n_layer,), 0.5)
        self._loss = 0.0

    def run(
        self, log: Callable[[str], None], checkpoint: Path, *, every: float = 180.0, until: int | None = None
    ) -> None:
        """Train to the last step (or `until`); write a checkpoint every so many seconds and at the end."""
        last = self.options.steps if until is None else until
        source = schedule(self.vocabulary, self.options, self.network.shape.n_ctx)
        source = itertools.islice(source, self.step, None)
        saved = time.monotonic()
        while self.step < last:
            started = time.monotonic()
            self._one_step(next(source))
            self.seconds += time.monotonic() - started
            if self.step % 50 == 0 or self.step == last:
                self._report(log)
            if time.monotonic() - saved > every:
                self.save(checkpoint)
                saved = time.monotonic()
        self.save(checkpoint)

    def _one_step(self, parts: list[Batch]) -> None:
        """One optimiser step on the mean gradient of `parts`, each computed by its own thread."""
        options = self.options
        rate = learning_rate(self.step, options)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["full_rate"]
        done = list(self._pool.map(self._gradient, parts))
        for index, parameter in enumerate(self.network.parameters()):
            parameter.grad = torch.stack([part.gradient[index] for part in done]).mean(dim=0)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self._steer(torch.stack([part.density for part in done]).mean(dim=0))
        loss = sum(part.loss for part in done) / len(done)
        self._loss += 0.05 * (loss - self._loss) if self._loss else loss
        self.step += 1
        self.tokens += sum(part.tokens for part in done)

    def _gradient(self, batch: Batch) -> "_Part":
        """The gradient of loss and push on one batch. Runs in a thread of its own with one core."""
        torch.set_num_threads(1)
        device = torch.device(self.options.device)
        # The cast weights are not cached: the cache is shared between threads.
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.autocast, cache_enabled=False):
            loss, actives, mask = token_loss(self.network, batch.to(self.options.device))
        neurons = mask.sum() * self.network.shape.n_ff
        size = torch.stack([(a.sum(-1).float() * mask).sum() for a in actives]) / neurons
        total = loss + (self.push.to(device) * size).sum()
        gradient = torch.autograd.grad(total, list(self.network.parameters()))
        live = torch.stack([((a.detach() > 0).sum(-1) * mask).sum() for a in actives])
        return _Part(gradient, loss.item(), (live / neurons).cpu(), int(mask.sum()))

    def _steer(self, density: Tensor) -> None:
        """Raise the push where a layer is denser than wanted, lower it where it is sparser."""
        self._density += 0.05 * (density - self._density)
        wanted = target_density(self.step, self.options)
        if self.step / self.options.steps > self.options.sparsity_start:
            self.push = (self.push * torch.exp(0.05 * torch.log(self._density / wanted).clamp(-1, 1))).clamp(1e-3, 20.0)

    def _report(self, log: Callable[[str], None]) -> None:
        log(
            f"step {self.step} loss {self._loss:.4f} density {' '.join(f'{d:.3f}' for d in self._density.tolist())} "
            f"push {' '.join(f'{p:.3g}' for p in self.push.tolist())} tokens {self.tokens} seconds {self.seconds:.0f} "
            f"tokens/s {self.tokens / self.seconds:.0f}"
        )

    def save(self, path: Path) -> None:
        """Write the whole state beside `path`, then move it into place."""
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "push": self.push,
            "density": self._density,
            "counters": {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "loss": self._loss},
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of `save`."""
        state = torch.load(path, map_location=self.options.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.push, self._density = state["push"].cpu(), state["density"].cpu()
        counters = state["counters"]
        self.step, self.tokens = counters["step"], counters["tokens"]
        self.seconds, self._loss = counters["seconds"], counters["loss"]
