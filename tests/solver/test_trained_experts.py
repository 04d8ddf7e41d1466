"""tests/data/storyteller-experts.gguf, whose router was trained: it tells stories, and experts differ in use."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.text import Tokenizer
from scripts.demo_model.corpus import documents

FILE = Path(__file__).parents[1] / "data" / "storyteller-experts.gguf"


@pytest.fixture(scope="module")
def told() -> list[list[int]]:
    """Held-out documents."""
    tokenizer = Tokenizer.from_gguf(FILE)
    return [tokenizer.encode("".join(one))[:300] for one in itertools.islice(documents(1, held_out=True), 8)]


def test_it_tells_stories(told: list[list[int]]) -> None:
    """By the fast kernels: hardly a choice among 2,816 tokens is left open."""
    with open_gguf(FILE) as gguf:
        engine = Engine.load(gguf, EngineOptions(n_threads=1))
        losses = []
        for ids in told:
            engine.reset()
            logits = engine.logits(ids)[:-1].astype(np.float64)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            losses.append(-logits[np.arange(len(ids) - 1), ids[1:]])
    assert np.exp(np.concatenate(losses).mean()) < 2.5


def test_its_experts_are_used_by_what_is_told(told: list[list[int]]) -> None:
    """All are used, unevenly; and a document's own favourites take more of its tokens than everybody's do."""
    counts: dict[int, list[np.ndarray]] = {}
    with open_gguf(FILE) as gguf:
        engine = Engine.load(gguf, EngineOptions(n_threads=1, n_ubatch=512))

        def tap(layer: int, chosen: np.ndarray) -> None:
            counts.setdefault(layer, []).append(np.bincount(chosen.ravel(), minlength=16))

        for ids in told:
            engine.record_routes(ids, tap)
    assert sorted(counts) == [0, 1, 2, 3]
    for found in map(np.array, counts.values()):
        use = found.sum(axis=0) / found.sum()
        assert use.min() > 0
        assert use.max() > 1.3 / 16
        own = np.sort(found / found.sum(axis=1, keepdims=True), axis=1)[:, -4:].sum(axis=1).mean()
        assert own > np.sort(use)[-4:].sum()
