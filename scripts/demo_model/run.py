"""The whole making of the model: vocabulary, training, predictors, export, card."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from powerinfer_cli.placement import save_statistics
from powerinfer_cli.placement.group_activity import group_activity, save_group_activity
from scripts.demo_model.chat import CONTROL_TOKENS, END
from scripts.demo_model.corpus import documents, stories
from scripts.demo_model.evaluation import (
    Collected,
    collect,
    measure_predictors,
    perplexity,
    switch_predictors,
    token_rows,
    write_story,
)
from scripts.demo_model.export import export, load_exported
from scripts.demo_model.network import Network, Shape
from scripts.demo_model.sparse_training import SparseOptions, SparseTrainer
from scripts.demo_model.vocabulary import EOS, Vocabulary, train
from solver.predictor import PredictorOptions, PredictorReport, TrainedPredictor, train_predictor

MODEL_NAME = "storyteller.powerinfer.gguf"
OPENINGS = (
    "Once upon a time",
    "Once upon a time",
    "Long ago, there was a shy dragon",
    "Once upon a time, a clever mouse named Zelda",
    "Have you heard of",
    "This is the story of",
)
SAMPLED = 256  # tokens whose active sets say which neurons fire together
Log: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """The sizes of one making; `RECIPE` makes the bundled model, `SMOKE` a toy in seconds."""

    steps: int = 3200
    batch_tokens: int = 1536
    warmup: int = 50
    n_vocab: int = 2816
    n_embd: int = 256
    n_layer: int = 5
    n_ff: int = 1024
    vocabulary_documents: int = 20000
    predictor_tokens: int = 120_000
    predictor_ranks: tuple[int, ...] = (96, 128, 128, 160, 160)  # of each layer
    predictor_recall: float = 0.9625  # and a hundredth more on held-back tokens: 0.97 on other stories
    predictor_steps: int = 300
    measured_documents: int = 200
    samples: int = 6


RECIPE = Recipe()
SMOKE = Recipe(
    steps=3,
    batch_tokens=512,
    warmup=1,
    n_vocab=640,
    n_embd=64,
    n_layer=2,
    n_ff=128,
    vocabulary_documents=60,
    predictor_tokens=2000,
    predictor_ranks=(32, 32),
    predictor_steps=20,
    measured_documents=3,
    samples=1,
)


def make_vocabulary(recipe: Recipe, seed: int) -> Vocabulary:
    """The vocabulary of the first documents of the corpus."""
    chosen = itertools.islice(documents(seed), recipe.vocabulary_documents)
    texts = (part for document in chosen for part in document if part not in CONTROL_TOKENS)
    return train(texts, recipe.n_vocab, CONTROL_TOKENS)


def make_trainer(recipe: Recipe, seed: int, device: str, vocabulary: Vocabulary) -> SparseTrainer:
    """A fresh training run."""
    torch.manual_seed(seed)
    shape = Shape(len(vocabulary), recipe.n_embd, recipe.n_layer, n_ff=recipe.n_ff)
    options = SparseOptions(
        steps=recipe.steps, seed=seed, batch_tokens=recipe.batch_tokens, warmup=recipe.warmup, device=device
    )
    return SparseTrainer(Network(shape), vocabulary, options)


@dataclass(frozen=True)
class Training:
    """Steps, tokens and seconds that a network took."""

    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Made:
    """The figures of a finished making."""

    recipe: Recipe
    shape: Shape
    parameters: int
    predictor_parameters: int
    training: Training
    dense_perplexity: float
    sparse_perplexity: float
    held_out_documents: int
    profiled_tokens: int
    layers: list[PredictorReport]
    file_bytes: int
    samples: list[tuple[str, str]]  # (how it was made, text)


def make(recipe: Recipe, folder: Path, work: Path, *, seed: int, device: str, resume: bool, log: Log) -> Made:
    """Make everything: `folder` gets the model, `work` the checkpoint and the log."""
    vocabulary = make_vocabulary(recipe, seed)
    log(f"vocabulary: {len(vocabulary)} pieces")
    trainer = make_trainer(recipe, seed, device, vocabulary)
    checkpoint = work / "checkpoint.pt"
    if resume and checkpoint.exists():
        trainer.load(checkpoint)
        log(f"resumed at step {trainer.step}")
    trainer.run(log, checkpoint)
    training = Training(trainer.step, trainer.tokens, trainer.seconds)
    return finish(recipe, trainer.network, vocabulary, training, folder, seed=seed, log=log)


def remake_predictors(recipe: Recipe, folder: Path, training: Training, *, seed: int, log: Log) -> Made:
    """Make predictors and statistics anew for the model in `folder`, whose other weights stay as they are."""
    vocabulary = make_vocabulary(recipe, seed)
    shape = Shape(len(vocabulary), recipe.n_embd, recipe.n_layer, n_ff=recipe.n_ff)
    network, _ = load_exported(folder / MODEL_NAME, shape)
    return finish(recipe, network, vocabulary, training, folder, seed=seed, log=log)


def finish(
    recipe: Recipe, network: Network, vocabulary: Vocabulary, training: Training, folder: Path, *, seed: int, log: Log
) -> Made:
    """Make the predictors of a trained network, export it, and measure the file."""
    network, shape = network.cpu().eval(), network.shape
    rows = token_rows(vocabulary, seed + 1, shape.n_ctx, held_out=False)
    log("collecting residuals and activations")
    collected = collect(network, rows, recipe.predictor_tokens)
    predictors = [_train_one(recipe, collected, network, number, log) for number in range(shape.n_layer)]
    path = folder / MODEL_NAME
    folder.mkdir(parents=True, exist_ok=True)
    export(path, network, vocabulary, predictors)
    _save_statistics(folder, collected)
    held = list(itertools.islice(token_rows(vocabulary, seed, shape.n_ctx, held_out=True), recipe.measured_documents))
    log("measuring the file")
    exported, in_file = load_exported(path, shape)
    reports = measure_predictors(in_file, collect(exported, iter(held), sum(map(len, held))))
    dense = perplexity(exported, held)
    switch_predictors(exported, in_file)
    return Made(
        recipe=recipe,
        shape=shape,
        parameters=sum(p.numel() for p in network.parameters()),
        predictor_parameters=sum(p.fc1.numel() + p.fc2.numel() for p in predictors),
        training=training,
        dense_perplexity=dense,
        sparse_perplexity=perplexity(exported, held),
        held_out_documents=len(held),
        profiled_tokens=collected.profile.tokens,
        layers=reports,
        file_bytes=path.stat().st_size,
        samples=_samples(recipe, vocabulary, path),
    )


def _save_statistics(folder: Path, collected: Collected) -> None:
    """Counts, of how many tokens they are, and how neurons fire together."""
    profile = collected.profile
    counts = [layer.numpy() for layer in profile.counts]
    save_statistics(folder / "activation", counts)
    stride = max(1, profile.tokens // SAMPLED)
    active = [(layer[::stride] != 0).numpy() for layer in collected.activations]
    save_group_activity(folder, group_activity(np.array(counts), active, profile.tokens))


def _train_one(recipe: Recipe, collected: Collected, network: Network, number: int, log: Log) -> TrainedPredictor:
    layer = network.layers[number]
    rows = (layer.ffn_gate.weight * layer.ffn_norm.weight).detach()
    options = PredictorOptions(
        rank=recipe.predictor_ranks[number], recall=recipe.predictor_recall, steps=recipe.predictor_steps, seed=number
    )
    trained = train_predictor(collected.residuals[number], collected.activations[number], options, rows)
    report = trained.report
    log(
        f"predictor {number}: recall {report.recall:.4f} predicted density {report.predicted_density:.4f} "
        f"true density {report.true_density:.4f}"
    )
    return trained


def _samples(recipe: Recipe, vocabulary: Vocabulary, path: Path) -> list[tuple[str, str]]:
    stop = frozenset({EOS, vocabulary.ids[END]})
    out = []
    for number in range(recipe.samples):
        opening, temperature = OPENINGS[number % len(OPENINGS)], 0.0 if number == 0 else 0.8
        prompt = vocabulary.encode([opening])
        new = write_story(path, prompt, stop, seed=number, temperature=temperature)
        how = "greedy" if temperature == 0 else f"temperature {temperature}, seed {number}"
        out.append((f'"{opening}", {how}', vocabulary.decode([*prompt, *new])))
    return out


def write_held_out(path: Path, seed: int, size: int = 40_000) -> None:
    """Write held-out stories of one paragraph each, blank lines between them, of about `size` bytes."""
    chosen: list[str] = []
    source = (story for story in stories(seed, held_out=True) if "\n" not in story)
    while sum(map(len, chosen)) < size:
        chosen.append(next(source))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(chosen) + "\n", encoding="utf-8")
