"""Encoders against torch: hidden states, several texts in a step, texts that are too long."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, GGUFFile
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from powerinfer_cli.runtime.pooling import Pool
from tests.helpers.families.encoders import ENCODERS, RERANKERS, states, tiny_encoder
from tests.helpers.families.family import PROMPT, TinyFamily
from tests.helpers.tiny_models import tiny_model

MODELS = [name for name in ENCODERS if name not in RERANKERS]
IDS = [max(token, 3) for token in PROMPT]  # no padding, which XLM-RoBERTa's code looks for
TEXTS = [IDS[:70], IDS[5:6], IDS[10:41], IDS[3:20], IDS[40:42]]


@pytest.fixture(scope="module", params=MODELS)
def tiny(request: pytest.FixtureRequest) -> TinyFamily:
    return tiny_encoder(request.param)


@pytest.fixture(scope="module")
def gguf(tiny: TinyFamily, tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    return tiny.file.open(tmp_path_factory.mktemp("encoder"))


def test_hidden_states(tiny: TinyFamily, gguf: GGUFFile) -> None:
    """Of texts that share steps, in both executors."""
    for reference in (False, True):
        engine = Engine.load(gguf, EngineOptions(n_threads=1, reference=reference))
        found = engine.step([Piece(i, ids, Wanted.HIDDEN) for i, ids in enumerate(TEXTS)])
        for ids, rows in zip(TEXTS, found, strict=True):
            np.testing.assert_allclose(rows, states(tiny, ids), rtol=0, atol=1e-4)
        engine.close()


def test_vectors_of_a_file_of_16_bits(tmp_path: Path) -> None:
    """In fixed point on the CPU: a text's direction is torch's, and its own whatever it shares its step with."""
    tiny = tiny_encoder("nomic-bert")
    engine = Engine.load(tiny.file.stored_as(GGMLType.F16).open(tmp_path), EngineOptions(n_threads=2))
    together = engine.step([Piece(i, ids, Wanted.HIDDEN) for i, ids in enumerate(TEXTS)])
    for ids, rows in zip(TEXTS, together, strict=True):
        wanted = states(tiny, ids)
        assert rows is not None
        cosines = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosines.min() > 0.9999
        np.testing.assert_array_equal(engine.step([Piece(0, ids, Wanted.HIDDEN)])[0], rows)


@pytest.fixture
def bert(tmp_path: Path) -> GGUFFile:
    return tiny_encoder("bert").file.open(tmp_path)


def test_what_a_text_shares_its_step_with_changes_no_bit(bert: GGUFFile) -> None:
    engine = Engine.load(bert, EngineOptions(n_threads=2))
    alone = [engine.step([Piece(0, ids, Wanted.HIDDEN)])[0] for ids in TEXTS]
    together = engine.step([Piece(i, ids, Wanted.HIDDEN) for i, ids in enumerate(TEXTS)])
    for one, other in zip(alone, together, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)


def test_nothing_is_kept(bert: GGUFFile) -> None:
    engine = Engine.load(bert, EngineOptions(n_threads=1))
    engine.step([Piece(0, IDS[:9], Wanted.HIDDEN)])
    assert not engine.tokens_of(0)
    assert engine.n_free == engine.n_ctx


def test_texts_that_are_too_long(bert: GGUFFile) -> None:
    """The model knows 256 positions."""
    engine = Engine.load(bert, EngineOptions(n_threads=1, n_ctx=32))
    with pytest.raises(PowerInferError, match="a text of 33 tokens is longer than the model takes, which is 32"):
        engine.step([Piece(0, IDS[:33], Wanted.HIDDEN)])
    assert Engine.load(bert, EngineOptions(n_threads=1, n_ctx=300)).n_ctx_sequence == 256  # a router's -c is for all


def test_encoders_write_no_text(bert: GGUFFile) -> None:
    engine = Engine.load(bert, EngineOptions(n_threads=1))
    step: list[Callable[[], object]] = [
        partial(engine.prefill, IDS[:4]),
        partial(engine.decode, 5),
        partial(engine.logits, IDS[:4]),
        partial(engine.step, [Piece(0, IDS[:4])]),
    ]
    for one in step:
        with pytest.raises(PowerInferError, match=r"\(bert\) makes vectors of texts and writes none"):
            one()
    with pytest.raises(PowerInferError, match="no classification head"):
        _ = engine.scorer


@pytest.mark.parametrize("name", RERANKERS)
def test_scores(name: str, tmp_path: Path) -> None:
    tiny = tiny_encoder(name)
    engine = Engine.load(tiny.file.open(tmp_path), EngineOptions(n_threads=1))
    for ids in TEXTS[:1] + TEXTS[2:]:
        (rows,) = engine.step([Piece(0, ids, Wanted.HIDDEN)])
        assert rows is not None
        pool = Pool(engine.scorer.pooling)
        pool.add(rows)
        np.testing.assert_allclose(engine.scorer.scores(pool.result[0]), states(tiny, ids), rtol=0, atol=1e-4)


def test_a_causal_model_that_sees_both_sides(tmp_path: Path) -> None:
    """Llama's layers, as an embedding model has them: each token sees all others, as in the plain executor."""
    file = tiny_model("llama").file.with_metadata(attention__causal=False)
    gguf = file.open(tmp_path)
    found = []
    for reference in (False, True):
        engine = Engine.load(gguf, EngineOptions(n_threads=1, reference=reference))
        found.append(engine.step([Piece(0, IDS[:30], Wanted.HIDDEN), Piece(1, IDS[:31], Wanted.HIDDEN)]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    assert np.abs(found[0][0] - found[0][1][:30]).max() > 1e-2
