"""The model card, written from measured figures."""

import re

from scripts.demo_model.grammar import HELD_OUT_SHARE, PLOTS, count_stories
from scripts.demo_model.run import Made, Training

_LIMITS = """## Limits
- A character's kind may change in what others say of it (a wolf is called "the bravest crab"); names and things
  rarely do
- An invented or unusual name may be misspelt later on; with greedy sampling two characters may be of the same kind"""


def render(made: Made, seed: int) -> str:
    """The card as Markdown."""
    return "\n\n".join(
        [
            "# Storyteller",
            "A small language model that writes short stories and answers questions about them. It is bundled with\n"
            "powerinfer to show the whole path on any machine: ReLU-gated FFN, activation predictors, activation\n"
            "statistics, chat. It knows nothing but its stories. Licence: MIT. Made from nothing by\n"
            f"`scripts/train_demo_model.py --seed {seed}`, which also wrote this card.",
            _model(made),
            _training(made),
            _measured(made),
            _LIMITS,
            "## Samples",
            *(f"**{how}**\n\n{text}" for how, text in made.samples),
        ]
    )


def read_training(card: str) -> Training:
    """What a card says of the network's training. Raises ValueError."""
    found = re.search(r"^- ([\d,]+) tokens in (\d+) steps, (\d+) minutes", card, re.MULTILINE)
    if found is None:
        raise ValueError("the card does not say how the network was trained")
    return Training(int(found[2]), int(found[1].replace(",", "")), 60.0 * int(found[3]))


def _model(made: Made) -> str:
    shape = made.shape
    return f"""## Model
- llama architecture with relu(gate) * up: {shape.n_layer} layers, n_embd {shape.n_embd}, {shape.n_head} heads
  ({shape.n_kv} for keys and values), n_ff {shape.n_ff}, context {shape.n_ctx}, tied output
- {made.parameters:,} parameters, and {made.predictor_parameters:,} in predictors of ranks
  {", ".join(map(str, made.recipe.predictor_ranks))}
- {shape.n_vocab} pieces: byte-fallback SentencePiece-style vocabulary (byte-pair merges); chat form with
  `<|system|>`, `<|user|>`, `<|assistant|>` and `<|end|>`
- `PWRI` GGUF, Q8_0 matrices and F32 norms, {made.file_bytes:,} bytes"""


def _training(made: Made) -> str:
    return f"""## Training
- {made.training.tokens:,} tokens in {made.training.steps} steps, {made.training.seconds / 60:.0f} minutes; Muon and
  AdamW, one pass
- An L1 term on relu(gate), per layer, whose weight steers itself to the wanted density
- Corpus: {len(PLOTS)} plots of a story grammar (lost things, wishes, fears, quarrels, kindness, tricks, birthdays,
  mysteries, journeys, lies): about {count_stories():.0e} distinct stories with listed names, and more
  with invented ones; chats ask for a story and then about it, with true answers
- One (name, kind, plot, place) combination in {HELD_OUT_SHARE} is kept out of training; the held-out figures
  are of those"""


def _measured(made: Made) -> str:
    difference = 100 * (made.sparse_perplexity / made.dense_perplexity - 1)
    rows = [(str(number), report) for number, report in enumerate(made.layers)]
    lines = [
        _row(name, [1 - r.true_density, r.true_density, r.recall, r.mass, r.predicted_density]) for name, r in rows
    ]
    means = [_mean(made, name) for name in ("true_density", "recall", "mass", "predicted_density")]
    return f"""## Measured on the file, on held-out documents
{made.held_out_documents} documents. Perplexity per token with every neuron: **{made.dense_perplexity:.4f}**; with the
predictors: **{made.sparse_perplexity:.4f}** ({difference:+.2f} %).

| layer | FFN sparsity | active neurons | recall | share of activation kept | predicted density |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
{_row("mean", [1 - means[0], *means])}

`activation/activation_N.pt` counts how often each neuron of layer N was active over {made.profiled_tokens:,} tokens."""


def _row(name: str, shares: list[float]) -> str:
    return f"| {name} | {' | '.join(f'{share:.2%}' for share in shares)} |"


def _mean(made: Made, name: str) -> float:
    values: list[float] = [getattr(report, name) for report in made.layers]
    return sum(values) / len(values)
