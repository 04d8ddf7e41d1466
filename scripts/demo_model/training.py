"""Training of a network: batches of like-sized documents, Muon and AdamW. Its kind says what counts beside the loss."""

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.demo_model.corpus import documents, roll_calls, token_ids
from scripts.demo_model.experts.network import Network as ExpertNetwork
from scripts.demo_model.network import Network
from scripts.demo_model.vocabulary import Vocabulary

_WIDTH = 16  # widths of batches are multiples of this
_IGNORE = -100
AnyNetwork = TypeVar("AnyNetwork", Network, ExpertNetwork)


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
    roll_calls_alone: float = 0.07
    roll_calls_some: float = 0.4
    autocast: bool = True
    device: str = "cpu"
    muon: Callable[..., torch.optim.Optimizer] = torch.optim.Muon


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


def token_loss(network: AnyNetwork, batch: Batch) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Mean cross-entropy of a batch, the two lists that the network gives, and the mask [B, T] of tokens that count."""
    logits, first, second = network(batch.ids)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=_IGNORE)
    return loss, first, second, batch.targets != _IGNORE


def learning_rate(step: int, options: TrainOptions) -> float:
    """The share of the full learning rate at a step: linear warm-up, then a cosine down to `final_share`."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.final_share + (1 - options.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _optimizers(network: AnyNetwork, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest, routers too: fewer tokens than with AdamW alone."""
    named = [pair for layer in network.layers for pair in layer.named_parameters()]
    matrices = [p for name, p in named if p.ndim == 2 and not name.endswith("router.weight")]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    muon = options.muon(matrices, lr=options.matrix_rate, weight_decay=options.weight_decay)
    adam = torch.optim.AdamW(others, lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return [muon, adam]


@dataclass(frozen=True)
class Goal:
    """What a batch is worth: the number to make small, the cross-entropy in it, what the kind of network watches."""

    total: Tensor
    loss: Tensor
    watched: Tensor
    tokens: int


@dataclass(frozen=True)
class _Part:
    """What one thread found: a gradient per parameter, and the batch's figures."""

    gradient: tuple[Tensor, ...]
    loss: float
    watched: Tensor
    tokens: int


class Trainer(ABC, Generic[AnyNetwork]):
    """A training run that can be saved and resumed. A kind of network says what its goal is, and what to watch."""

    def __init__(self, network: AnyNetwork, vocabulary: Vocabulary, options: TrainOptions) -> None:
        self.network, self.vocabulary, self.options = network.to(options.device), vocabulary, options
        self.optimizers = _optimizers(network, options)
        self._pool = ThreadPoolExecutor(options.workers)
        self.step = 0
        self.seconds = 0.0
        self.tokens = 0
        self._loss = 0.0

    @abstractmethod
    def goal(self, batch: Batch) -> Goal:
        """Of a batch on the network's device. Runs in a worker's thread."""

    @abstractmethod
    def steer(self, watched: Tensor) -> None:
        """After each step, with the mean of what its batches watched."""

    @abstractmethod
    def told(self) -> str:
        """What the log says of it."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """From `state`."""

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
                log(
                    f"step {self.step} loss {self._loss:.4f} {self.told()} tokens {self.tokens} "
                    f"seconds {self.seconds:.0f} tokens/s {self.tokens / self.seconds:.0f}"
                )
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
        self.steer(torch.stack([part.watched for part in done]).mean(dim=0))
        loss = sum(part.loss for part in done) / len(done)
        self._loss += 0.05 * (loss - self._loss) if self._loss else loss
        self.step += 1
        self.tokens += sum(part.tokens for part in done)

    def _gradient(self, batch: Batch) -> _Part:
        """The gradient of the goal on one batch. Runs in a thread of its own with one core."""
        torch.set_num_threads(1)
        device = torch.device(self.options.device)
        # The cast weights are not cached: the cache is shared between threads.
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.autocast, cache_enabled=False):
            goal = self.goal(batch.to(self.options.device))
        gradient = torch.autograd.grad(goal.total, list(self.network.parameters()))
        return _Part(gradient, goal.loss.item(), goal.watched.detach().cpu(), goal.tokens)

    def save(self, path: Path) -> None:
        """Write the whole state beside `path`, then move it into place."""
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "watched": self.state(),
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
        self.restore(state["watched"])
        counters = state["counters"]
        self.step, self.tokens = counters["step"], counters["tokens"]
        self.seconds, self._loss = counters["seconds"], counters["loss"]
