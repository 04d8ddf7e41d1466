"""The whole making of the mixture: the bundled model's vocabulary and corpus, training, export, card."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from scripts.demo_model.chat import END
from scripts.demo_model.evaluation import perplexity, token_rows, write_story
from scripts.demo_model.experts.export import export, load_exported
from scripts.demo_model.experts.network import Network, Shape
from scripts.demo_model.experts.training import ExpertOptions, ExpertTrainer
from scripts.demo_model.run import OPENINGS, RECIPE, make_vocabulary
from scripts.demo_model.run import SMOKE as TOY
from scripts.demo_model.vocabulary import EOS, Vocabulary

__all__ = ["EXPERTS", "MODEL_NAME", "SMOKE", "ExpertRecipe", "make"]

MODEL_NAME = "storyteller-experts.gguf"
CARD_NAME = "storyteller-experts.md"


@dataclass(frozen=True)
class ExpertRecipe:
    """`EXPERTS` makes the model of tests and benchmarks, `SMOKE` a toy in seconds."""

    steps: int = 3200
    warmup: int = 50
    batch_tokens: int = 1536
    measured_documents: int = 200
    samples: int = 4
    toy: bool = False

    def vocabulary(self, seed: int) -> Vocabulary:
        """The bundled model's."""
        return make_vocabulary(TOY if self.toy else RECIPE, seed)

    def shape(self, n_vocab: int) -> Shape:
        """Of the network."""
        shape = Shape(n_vocab)
        return replace(shape, n_embd=64, n_layer=2, n_head=4, n_kv=2, n_ff=32, n_experts=4) if self.toy else shape


EXPERTS = ExpertRecipe()
SMOKE = ExpertRecipe(steps=3, warmup=1, batch_tokens=512, measured_documents=2, samples=0, toy=True)


def make(recipe: ExpertRecipe, folder: Path, work: Path, *, seed: int, resume: bool, log: Callable[[str], None]) -> str:
    """Make model and card in `folder`, the checkpoint in `work`. Gives the card."""
    vocabulary = recipe.vocabulary(seed)
    shape = recipe.shape(len(vocabulary))
    torch.manual_seed(seed)
    options = ExpertOptions(
        steps=recipe.steps, seed=seed, batch_tokens=recipe.batch_tokens, warmup=recipe.warmup, device="cpu"
    )
    trainer = ExpertTrainer(Network(shape), vocabulary, options)
    checkpoint = work / "checkpoint.pt"
    if resume and checkpoint.exists():
        trainer.load(checkpoint)
        log(f"resumed at step {trainer.step}")
    trainer.run(log, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    export(folder / MODEL_NAME, trainer.network.eval(), vocabulary)
    held = list(itertools.islice(token_rows(vocabulary, seed, shape.n_ctx, held_out=True), recipe.measured_documents))
    uses = _uses(folder / MODEL_NAME, [row[: shape.n_ctx] for row in held])
    card = _card(
        shape,
        trainer,
        perplexity(load_exported(folder / MODEL_NAME, shape), held),
        uses,
        _samples(recipe, vocabulary, folder / MODEL_NAME),
        (folder / MODEL_NAME).stat().st_size,
    )
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    return card


def _uses(path: Path, rows: list[list[int]]) -> list[np.ndarray]:
    """How often each expert of a layer was chosen, by the package's own engine: [documents, E] of each."""
    found: dict[int, list[np.ndarray]] = {}
    with open_gguf(path) as gguf:
        engine = Engine.load(gguf, EngineOptions(n_threads=1, n_batch=512))
        experts = int(gguf.metadata["qwen3moe.expert_count"])

        def tap(layer: int, chosen: np.ndarray) -> None:
            found.setdefault(layer, []).append(np.bincount(chosen.ravel(), minlength=experts))

        for row in rows:
            engine.record_routes(row, tap)
    return [np.array(found[layer]) for layer in sorted(found)]


def _samples(recipe: ExpertRecipe, vocabulary: Vocabulary, path: Path) -> list[tuple[str, str]]:
    stop, out = frozenset({EOS, vocabulary.ids[END]}), []
    for number in range(recipe.samples):
        opening, temperature = OPENINGS[number % len(OPENINGS)], 0.8 if number else 0.0
        prompt = vocabulary.encode([opening])
        new = write_story(path, prompt, stop, seed=number, temperature=temperature)
        how = f"temperature {temperature}, seed {number}" if temperature else "greedy"
        out.append((f'"{opening}", {how}', vocabulary.decode([*prompt, *new])))
    return out


def _card(
    shape: Shape,
    trainer: ExpertTrainer,
    found: float,
    uses: list[np.ndarray],
    samples: list[tuple[str, str]],
    size: int,
) -> str:
    parameters = sum(p.numel() for p in trainer.network.parameters())
    rows = [f"| {number} | {' | '.join(_skew(layer))} |" for number, layer in enumerate(uses)]
    heads = f"{shape.n_head} heads ({shape.n_kv} for keys and values)"
    sizes = f"{shape.n_layer} layers, n_embd {shape.n_embd}, {heads}, experts of {shape.n_ff}, context {shape.n_ctx}"
    return f"""# Storyteller with experts

The bundled storyteller's corpus, vocabulary and chat form, with {shape.n_experts} SiLU experts a layer for neurons, of
which a token needs {shape.n_chosen}: a mixture whose routing was learned, for tests and measurements of placement.
Licence: MIT. Made from nothing by
`scripts/train_expert_model.py --seed {trainer.options.seed} --steps {trainer.options.steps}`.

- qwen3moe: {sizes}, tied output
- {parameters:,} parameters; Q8_0 matrices, F32 norms and routers; {size:,} bytes
- {trainer.tokens:,} tokens in {trainer.step} steps; Muon, AdamW; a balancing term of {ExpertOptions.balance:g} a layer

Perplexity per token of held-out documents, by the file: **{found:.4f}** (the bundled model's is in its card).

## How experts are used
By {len(uses[0])} held-out documents, of each layer: the share of all uses of its least and its most used expert, of
its 4 most used (even use: {1 / shape.n_experts:.1%}, {4 / shape.n_experts:.1%}), and of the 4 that a document used
most itself, on average.

| layer | least | most | 4 most | a document's 4 most |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

## Samples

{(chr(10) * 2).join(f"**{how}**{chr(10) * 2}{text}" for how, text in samples)}
"""


def _skew(uses: np.ndarray) -> list[str]:
    """uses [documents, E]."""
    shares = np.sort(uses.sum(axis=0) / uses.sum())
    own = np.sort(uses, axis=1)[:, -4:].sum(axis=1) / uses.sum(axis=1)
    return [f"{one:.1%}" for one in (shares[0], shares[-1], shares[-4:].sum(), own.mean())]
