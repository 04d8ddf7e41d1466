"""The model that comes with the package: what it promises, checked on its own files."""

import re
from pathlib import Path

import numpy as np
import pytest

import powerinfer_cli
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.placement import load_statistics
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.text import Tokenizer
from scripts.demo_model.chat import CHAT_TEMPLATE
from scripts.demo_model.run import MODEL_NAME, RECIPE

FOLDER = Path(powerinfer_cli.__file__).parent / "bundled"
MODEL = FOLDER / MODEL_NAME
HELD_OUT = Path(__file__).parents[1] / "data" / "heldout_stories.txt"


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_file_is_small_and_complete() -> None:
    assert MODEL.stat().st_size <= 12_000_000
    with open_gguf(MODEL) as gguf:
        assert gguf.sparse
        assert gguf.metadata["general.license"] == "mit"
        assert gguf.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
        assert len(gguf.tensors) == 2 + 11 * RECIPE.n_layer
        for tensor in gguf.tensors.values():
            assert tensor.type is (GGMLType.Q8_0 if len(tensor.shape) == 2 else GGMLType.F32)


def test_the_statistics_belong_to_it() -> None:
    statistics = load_statistics(FOLDER / "activation", [RECIPE.n_ff] * RECIPE.n_layer)
    assert statistics.tokens is not None
    assert RECIPE.predictor_tokens <= statistics.tokens <= 1.1 * RECIPE.predictor_tokens
    assert max(counts.max() for counts in statistics.counts) <= statistics.tokens
    for counts in statistics.counts:
        assert counts.mean() < 0.15 * RECIPE.predictor_tokens, "not sparse"


def test_the_card_keeps_the_promises(card: str) -> None:
    dense, sparse = (float(found) for found in re.findall(r"\*\*(\d+\.\d+)\*\*", card)[:2])
    assert abs(sparse / dense - 1) < 0.03
    means = re.search(r"\| mean \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)%", card)
    assert means
    assert float(means[1]) >= 85, "FFN sparsity"
    assert float(means[3]) >= 96.5, "recall"
    assert float(means[5]) <= 15, "let through"


def perplexity(texts: list[str], options: EngineOptions) -> float:
    """Of each token after a text's first, over all texts."""
    tokenizer = Tokenizer.from_gguf(MODEL)
    losses: list[float] = []
    with open_gguf(MODEL) as gguf:
        engine = Engine.load(gguf, options)
        for text in texts:
            ids = tokenizer.encode(text)
            engine.reset()
            logits = engine.logits(ids).astype(np.float64)
            shifted = logits - logits.max(axis=1, keepdims=True)
            log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            losses += [-log_shares[i, token] for i, token in enumerate(ids[1:])]
    return float(np.exp(np.mean(losses)))


@pytest.fixture(scope="module")
def held_out() -> list[str]:
    return HELD_OUT.read_text(encoding="utf-8").strip().split("\n\n")[:8]


def test_the_engine_finds_the_held_out_stories_as_easy_as_the_card_says(card: str, held_out: list[str]) -> None:
    """A few held-out stories through the package's own engine: their perplexity is near the card's."""
    promised = float(re.findall(r"\*\*(\d+\.\d+)\*\*", card)[1])
    assert perplexity(held_out, EngineOptions()) < 1.3 * promised


@pytest.mark.parametrize("type_k_v", ["f16", "q8_0"])
def test_fast_kernels_leave_its_quality_untouched(held_out: list[str], type_k_v: str) -> None:
    """Within half a percent of plain float32 arithmetic."""
    fast = perplexity(held_out, EngineOptions(type_k=type_k_v, type_v=type_k_v))
    assert fast == pytest.approx(perplexity(held_out, EngineOptions(reference=True)), rel=0.005)


def test_it_tells_a_story_and_ends_it() -> None:
    tokenizer = Tokenizer.from_gguf(MODEL)
    with open_gguf(MODEL) as gguf:
        engine = Engine.load(gguf, EngineOptions())
        ids = tokenizer.encode("Once upon a time, a clever mouse named Milo")
        logits = engine.prefill(ids)
        while (token := int(logits.argmax())) not in tokenizer.eog_ids and len(ids) < 400:
            ids.append(token)
            logits = engine.decode(token)
    story = tokenizer.decode(ids)
    assert token in tokenizer.eog_ids, story
    assert story.count("Milo") >= 4, story
    assert "mouse" in story
    assert story.rstrip()[-1] in '.!"', story
