"""The text that a model is profiled with: a user's, what it knows of the sample, what it writes itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import powerinfer_cli
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.text import Tokenizer
from solver import default_text, own_text
from solver.default_text import default_chunks, given_chunks, own_size, read_size, short_default, verdict_text
from solver.own_text import own_texts
from solver.profile import SampleDocument, sample_documents
from solver.stages import SolverModel
from tests.helpers.placing.placed_model import dense_model

BUNDLED = Path(powerinfer_cli.__file__).parent / "bundled" / "storyteller.powerinfer.gguf"


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def model(notes: list[str]) -> SolverModel:
    return SolverModel(open_gguf(BUNDLED), EngineOptions(n_threads=1), LoadEvents(note=notes.append))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(BUNDLED)


def test_a_model_writes_many_texts_at_once(model: SolverModel, tokenizer: Tokenizer) -> None:
    texts = own_texts(model, 1600, 1, tokenizer.eog_ids)
    assert 1600 <= sum(map(len, texts)) < 1700
    assert {text[0] for text in texts} == {1}
    assert all(len(text) >= 512 for text in texts[:-1]), "short ones are put together"
    assert sum(text.count(1) for text in texts) >= 16
    assert texts == own_texts(model, 1600, 1, tokenizer.eog_ids), "the same texts each time"
    written = tokenizer.decode([token for text in texts for token in text])
    assert sum(written.count(word) for word in (" the ", " and ", " a ", " was ")) >= 30, written
    assert own_texts(model, 1600, 1, tokenizer.eog_ids, seconds=0) == [[1] * 16], "no longer than it may take"


def test_caches_of_texts_are_bounded(model: SolverModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_text, "CACHES", 1)
    assert len(own_texts(model, 20, 1, ())) == 1


def sample_of(*kinds: str) -> Callable[[], tuple[SampleDocument, ...]]:
    documents = [one for one in sample_documents() if one.kind in kinds]
    return lambda: tuple(SampleDocument(one.name, one.text[:1500]) for one in documents[:6])


def test_what_a_model_does_not_know_is_left_out(
    model: SolverModel, tokenizer: Tokenizer, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_text, "own_size", lambda _: 600)
    monkeypatch.setattr(default_text, "sample_documents", sample_of("code", "language"))
    text = default_chunks(model, tokenizer, tmp_path)
    assert "text: the model knows 0 of 6 documents of the sample" in notes[-2]
    assert "tokens that the model has written itself are added" in notes[-1]
    assert not any("return" in tokenizer.decode(chunk) for chunk in text)
    monkeypatch.setattr(default_text, "own_texts", None)
    assert default_chunks(model, tokenizer, tmp_path) == text, "kept beside the outputs"


def test_who_knows_the_sample_only_reads(
    model: SolverModel, tokenizer: Tokenizer, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_text, "own_texts", None)
    monkeypatch.setattr(default_text, "sample_documents", sample_of("tale"))
    monkeypatch.setattr(default_text, "FOREIGN", 1.0)
    text = default_chunks(model, tokenizer, tmp_path)
    assert notes == [
        f"text: the model knows {len(set(text.documents))} of {len(set(text.documents))} documents "
        + notes[0].partition("documents ")[2]
    ]
    assert len(set(text.documents)) == len(sample_of("tale")()), "each document by itself"
    monkeypatch.setattr(default_text, "PROBED", 64)
    assert sum(map(len, short_default(model, tokenizer))) < sum(map(len, text))
    assert verdict_text(model, tokenizer) == text, "looked at is one document, taken are all"


def test_a_text_in_another_language_is_said(model: SolverModel, tokenizer: Tokenizer, notes: list[str]) -> None:
    story = "Once upon a time there was a little fox who lived in the forest. One day the fox found a red ball. " * 40
    chunks = given_chunks(model, tokenizer, story)
    assert not notes
    foreign = "Ещё вчера старый смотритель маяка записывал в журнал каждую проходящую мимо баржу. " * 40
    assert len(given_chunks(model, tokenizer, foreign)) >= len(chunks)
    (note,) = notes
    assert note.startswith("the model hardly knows such text: its perplexity is ")
    with pytest.raises(PowerInferError, match=r"^the text has \d+ tokens, but one chunk has 512: give a longer text$"):
        given_chunks(model, tokenizer, story[:300])


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    text, tiny = "Once upon a time there was one fox. " * 100, dense_model("relu")
    up = tiny.tensors["blk.1.ffn_up.weight"].copy()
    up[3, 2] = np.nan
    spoilt = tiny.with_tensors({"blk.1.ffn_up.weight": up}).write(tmp_path / "model.gguf")
    model = SolverModel(open_gguf(spoilt), EngineOptions(n_threads=1), LoadEvents())
    with pytest.raises(PowerInferError, match=r"^layer 1, token 0 of the text: activations that are no numbers"):
        given_chunks(model, Tokenizer.from_gguf(spoilt), text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blk.1.ffn_norm.weight", r"model\.gguf: blk\.1\.ffn_norm\.weight holds a NaN: the file is damaged$"),
        ("blk.1.attn_v.weight", "^layer 1, token 0 of the text: activations that are no numbers"),
        ("blk.0.ffn_down.weight", "^layer 1, token 0 of the text: activations that are no numbers"),
        ("blk.1.ffn_down.weight", r"model\.gguf: blk\.1\.ffn_down\.weight, row 0: weights that are no numbers: "),
        ("output.weight", r"model\.gguf: output\.weight, row 0: weights that are no numbers: the file is damaged$"),
    ],
)
def test_quantising_swallows_no_nan(name: str, words: str, tmp_path: Path) -> None:
    """In a vector it is seen as the model is read; in the scale of a block, by what comes of it."""
    tiny = dense_model("relu").stored_as(GGMLType.Q8_0)
    spoilt = tiny.tensors[name].copy()
    spoilt.reshape(-1).view(np.float32 if name not in tiny.types else np.float16)[0] = np.nan
    path = tiny.with_tensors({name: spoilt}).write(tmp_path / "model.gguf")
    model = SolverModel(open_gguf(path), EngineOptions(n_threads=1), LoadEvents())
    with pytest.raises(PowerInferError, match=words):
        given_chunks(model, Tokenizer.from_gguf(path), "Once upon a time there was one fox. " * 100)


def test_small_models_read_and_write_more() -> None:
    assert own_size(6 << 20) == 20480
    assert 2000 < own_size(640 << 20) < 5000
    assert own_size(40 << 30) == 512
    assert read_size(135_000_000) == 49152
    assert read_size(7_000_000_000) == 20480
