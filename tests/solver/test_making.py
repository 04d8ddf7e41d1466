"""The whole making of a toy model by scripts/train_demo_model.py, and the files that it writes."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.placement import load_statistics
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.text import Tokenizer
from scripts.demo_model.card import read_training
from scripts.demo_model.corpus import documents, token_ids
from scripts.demo_model.evaluation import switch_predictors
from scripts.demo_model.experts.export import load_exported as load_experts
from scripts.demo_model.experts.run import SMOKE as EXPERT_SMOKE
from scripts.demo_model.export import load_exported
from scripts.demo_model.network import Shape
from scripts.demo_model.run import MODEL_NAME, SMOKE, make_trainer, make_vocabulary
from scripts.demo_model.vocabulary import SPACE, PieceType, Vocabulary
from scripts.train_demo_model import main
from scripts.train_expert_model import main as make_experts
from tests.helpers.rounding import check_logits

SEED = 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    main(["--smoke", "--seed", str(SEED), "--out", str(folder), "--held-out", str(folder / "heldout.txt")])
    return folder


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(SMOKE, SEED)


def test_the_file_is_a_sparse_llama(made: Path) -> None:
    with open_gguf(made / MODEL_NAME) as gguf:
        assert gguf.sparse
        assert gguf.metadata["general.architecture"] == "llama"
        assert gguf.metadata["general.license"] == "mit"
        assert gguf.metadata["powerinfer.sparse_threshold"] == 0.0
        shapes = {name: tensor.shape for name, tensor in gguf.tensors.items()}
    assert shapes["blk.1.fc1.weight"] == (32, 64)
    assert shapes["blk.1.fc2.weight"] == (128, 32)
    assert shapes["blk.1.ffn_down_t.weight"] == (128, 64)
    assert "output.weight" not in shapes
    assert len(shapes) == 2 + 11 * SMOKE.n_layer


def test_statistics_card_and_held_out_text(made: Path) -> None:
    counts = load_statistics(made / "activation", [SMOKE.n_ff] * SMOKE.n_layer).counts
    assert len(counts) == SMOKE.n_layer
    assert all(0 < layer.max() <= 1.5 * SMOKE.predictor_tokens + 2000 for layer in counts)
    assert counts[0].sum() > 0
    card = (made / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"--seed {SEED}" in card
    assert "Perplexity" in card
    assert "| mean |" in card
    held_out = (made / "heldout.txt").read_text(encoding="utf-8")
    assert 30_000 < len(held_out) < 60_000


def test_predictors_alone_are_made_anew(made: Path, tmp_path: Path) -> None:
    """All other weights stay as they are, to the byte; the card still says how the network was trained."""
    shutil.copytree(made, tmp_path / "again")
    main(["--smoke", "--seed", str(SEED), "--out", str(tmp_path / "again"), "--predictors-only"])
    with open_gguf(made / MODEL_NAME) as before, open_gguf(tmp_path / "again" / MODEL_NAME) as after:
        for name, tensor in before.tensors.items():
            if ".fc" not in name:
                assert np.array_equal(tensor.rows(), after.tensors[name].rows()), name
    tokens = load_statistics(tmp_path / "again" / "activation", [SMOKE.n_ff] * SMOKE.n_layer).tokens
    assert tokens is not None
    assert tokens >= SMOKE.predictor_tokens
    cards = [(folder / "MODEL_CARD.md").read_text(encoding="utf-8") for folder in (made, tmp_path / "again")]
    assert read_training(cards[0]) == read_training(cards[1])


@pytest.mark.parametrize("sparse", [False, True])
def test_the_engine_computes_what_was_trained(
    made: Path, vocabulary: Vocabulary, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's logits of the file are those of the training network with the file's weights."""
    ids = token_ids(next(documents(3)), vocabulary)[:40]
    network, predictors = load_exported(
        made / MODEL_NAME, Shape(len(vocabulary), SMOKE.n_embd, SMOKE.n_layer, n_ff=SMOKE.n_ff)
    )
    switch_predictors(network, predictors if sparse else None)
    with torch.inference_mode():
        expected = network(torch.tensor([ids]))[0][0]
    if not sparse:
        monkeypatch.setenv("LLAMA_SPARSE_PRED_THRESHOLD", "-1e30")
    with open_gguf(made / MODEL_NAME) as gguf:
        found = Engine.load(gguf, EngineOptions(reference=True)).logits(ids)
    check_logits(found, expected)


def test_the_vocabulary_is_reproducible(vocabulary: Vocabulary) -> None:
    again = make_vocabulary(SMOKE, SEED)
    assert again.pieces == vocabulary.pieces
    assert again.scores == vocabulary.scores
    assert make_vocabulary(SMOKE, SEED + 1).pieces != vocabulary.pieces


def test_pieces_never_cross_a_space(vocabulary: Vocabulary) -> None:
    assert len(set(vocabulary.pieces)) == len(vocabulary) == SMOKE.n_vocab
    normal = [p for p, kind in zip(vocabulary.pieces, vocabulary.types, strict=True) if kind == PieceType.NORMAL]
    assert not any(SPACE in piece[1:] for piece in normal)


def test_training_sees_the_tokens_that_the_tokenizer_makes(made: Path, vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer.from_gguf(made / MODEL_NAME)
    for document in itertools.islice(documents(9), 60):
        assert vocabulary.encode(document) == tokenizer.encode("".join(document))
    odd = "two  spaces, tabs\tand\n\nlines; caf\u00e9 \u65e5\u672c \U0001f600 don't 'quote' 123"
    assert vocabulary.encode([odd]) == tokenizer.encode(odd)
    assert vocabulary.decode(vocabulary.encode([odd])) == odd


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path, vocabulary: Vocabulary) -> None:
    def quiet(line: str) -> None:
        assert "loss" in line

    unbroken = make_trainer(SMOKE, SEED, "cpu", vocabulary)
    unbroken.run(quiet, tmp_path / "whole.pt", every=0)
    broken = make_trainer(SMOKE, SEED, "cpu", vocabulary)
    broken.run(quiet, tmp_path / "part.pt", until=1)
    resumed = make_trainer(SMOKE, SEED + 1, "cpu", vocabulary)
    resumed.options = unbroken.options
    resumed.load(tmp_path / "part.pt")
    assert resumed.step == 1
    resumed.run(quiet, tmp_path / "part.pt")
    for expected, found in zip(unbroken.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_mixture_is_made(tmp_path: Path) -> None:
    """The network as trained, the file, and the engine agree; the card tells what was recorded."""
    make_experts(["--smoke", "--seed", str(SEED), "--out", str(tmp_path), "--work", str(tmp_path / "work")])
    ids = [1, *range(300, 340)]
    with open_gguf(tmp_path / "storyteller-experts.gguf") as gguf:
        logits = Engine.load(gguf, EngineOptions(reference=True)).prefill(ids)
    network = load_experts(tmp_path / "storyteller-experts.gguf", EXPERT_SMOKE.shape(640))
    with torch.no_grad():
        check_logits(logits, network(torch.tensor([ids]))[0][0, -1])
    assert "| 1 | " in (tmp_path / "storyteller-experts.md").read_text(encoding="utf-8")
