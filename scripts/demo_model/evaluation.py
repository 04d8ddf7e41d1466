"""Figures of the exported file: perplexity, density, predictors' recall; and sample stories."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from scripts.demo_model.corpus import documents, token_ids
from scripts.demo_model.experts.network import Network as ExpertNetwork
from scripts.demo_model.export import FilePredictor
from scripts.demo_model.network import Network
from scripts.demo_model.training import Batch, pad, token_loss
from scripts.demo_model.vocabulary import Vocabulary
from solver.predictor import PredictorReport, measure
from solver.profile import Profile

_ROWS = 16  # documents per batch


@dataclass(frozen=True)
class Collected:
    """What ran through the network, per layer: residuals [N, n_embd] (bfloat16) and relu(gate) [N, n_ff] (bfloat16)."""

    residuals: list[Tensor]
    activations: list[Tensor]
    profile: Profile


def token_rows(vocabulary: Vocabulary, seed: int, n_ctx: int, *, held_out: bool) -> Iterator[list[int]]:
    """Endless documents as ids, at most n_ctx + 1 long."""
    for document in documents(seed, held_out=held_out):
        yield token_ids(document, vocabulary)[: n_ctx + 1]


def _batched(rows: Iterable[list[int]]) -> Iterator[Batch]:
    source = iter(rows)
    while chunk := sorted(itertools.islice(source, 4 * _ROWS), key=len):
        for start in range(0, len(chunk), _ROWS):
            part = chunk[start : start + _ROWS]
            yield pad(part, len(part[-1]) - 1)


@torch.inference_mode()
def collect(network: Network, rows: Iterator[list[int]], tokens: int) -> Collected:
    """Run documents through the dense network until `tokens` are collected."""
    kept: list[tuple[list[Tensor], list[Tensor]]] = []
    profile = Profile()
    for batch in _batched(rows):
        mask = batch.targets >= 0
        _, residuals, actives = network(batch.ids)
        chosen = [active[mask] for active in actives]
        profile.add(chosen)
        kept.append(([r[mask].bfloat16() for r in residuals], [active.bfloat16() for active in chosen]))
        if profile.tokens >= tokens:
            break
    layers = range(network.shape.n_layer)
    return Collected(
        [torch.cat([part[0][i] for part in kept]) for i in layers],
        [torch.cat([part[1][i] for part in kept]) for i in layers],
        profile,
    )


@torch.inference_mode()
def perplexity(network: Network | ExpertNetwork, rows: Iterable[list[int]]) -> float:
    """exp of the mean negative log-likelihood of all tokens after the first of each row."""
    total = count = 0.0
    for batch in _batched(rows):
        loss, _, _, mask = token_loss(network, batch)
        total += loss.item() * mask.sum().item()
        count += mask.sum().item()
    return math.exp(total / count)


def switch_predictors(network: Network, predictors: list[FilePredictor] | None) -> None:
    """Let the predictors decide which neurons run, or (None) run all."""
    for number, layer in enumerate(network.layers):
        layer.predictor = predictors[number] if predictors else None


def measure_predictors(predictors: list[FilePredictor], collected: Collected) -> list[PredictorReport]:
    """The file's predictors on collected tokens, layer by layer."""
    parts = zip(predictors, collected.residuals, collected.activations, strict=True)
    return [measure(p.fc1, p.fc2, residuals, actives) for p, residuals, actives in parts]


def write_story(path: Path, prompt: list[int], stop: frozenset[int], *, seed: int, temperature: float) -> list[int]:
    """New ids after `prompt`, drawn by the package's own engine (temperature 0: greedy), the stop token left out."""
    random = np.random.default_rng(seed)
    with open_gguf(path) as gguf:
        engine = Engine.load(gguf, EngineOptions(n_threads=2))
        logits = engine.prefill(prompt)
        new: list[int] = []
        while len(prompt) + len(new) < engine.n_ctx:
            chosen = int(logits.argmax())
            if temperature > 0:
                shares = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
                chosen = int(random.choice(len(shares), p=shares / shares.sum()))
            if chosen in stop:
                break
            new.append(chosen)
            logits = engine.decode(chosen)
    return new
