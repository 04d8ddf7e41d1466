"""The text for a model that nobody gave a text for."""

from pathlib import Path

import pytest

import powerinfer_cli
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.text import Tokenizer
from solver import default_text
from solver.default_text import default_chunks, own_size, own_text
from solver.profile import sample_documents
from solver.stages import SolverModel

BUNDLED = Path(powerinfer_cli.__file__).parent / "bundled" / "storyteller.powerinfer.gguf"


@pytest.fixture(scope="module")
def model() -> SolverModel:
    return SolverModel(open_gguf(BUNDLED), EngineOptions(n_threads=1, reference=True), LoadEvents())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(BUNDLED)


def test_a_model_writes_what_it_knows(model: SolverModel, tokenizer: Tokenizer) -> None:
    ids = own_text(model, 120, 1, tokenizer.eog_ids)
    assert len(ids) == 120
    assert ids[0] == 1
    assert ids == own_text(model, 120, 1, tokenizer.eog_ids), "the same text each time"
    text = tokenizer.decode(ids)
    assert sum(word in text for word in (" the ", " and ", " a ", " was ")) >= 3, text


def test_what_a_model_does_not_know_is_left_out(
    model: SolverModel, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_text, "own_size", lambda _: 600)
    documents = sample_documents()
    tales = "\n".join(document.text for document in documents if document.kind == "tale")
    code = "\n".join(document.text for document in documents if document.kind == "code")
    monkeypatch.setattr(default_text, "sample_text", lambda: tales[:5500] + code[:4000])
    chunks = default_chunks(model, tokenizer, tmp_path)
    texts = [tokenizer.decode(chunk) for chunk in chunks]
    whole = len(tokenizer.encode(tales[:5500] + code[:4000], add_special=False)) // 512
    assert whole >= 6, "most of the chunks are of code"
    assert len(texts) == 4, "two of tales, one of tales and code, one that the model wrote"
    assert not any("subscribe" in text for text in texts)
    monkeypatch.setattr(default_text, "own_text", None)
    assert default_chunks(model, tokenizer, tmp_path) == chunks, "kept beside the outputs"


def test_small_models_write_more() -> None:
    assert own_size(6 << 20) == 16384
    assert 2000 < own_size(640 << 20) < 5000
    assert own_size(40 << 30) == 512
