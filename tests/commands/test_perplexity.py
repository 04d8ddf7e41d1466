"""`powerinfer perplexity`: llama.cpp's definition, worked out again with transformers' own logits."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.runtime.perplexity import Score, chunk_losses, chunks, losses, ratio
from tests.helpers.main_cli import Process, Result, powerinfer
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import reference_logits, tiny_model
from tests.helpers.word_model import word_model

TEXT = "Once upon a time there was one fox.\n " * 12


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def final(result: Result) -> tuple[float, float]:
    match = re.search(r"^Final estimate: PPL = (\S+) \+/- (\S+)$", result.out, re.MULTILINE)
    assert match is not None, result
    return float(match[1]), float(match[2])


def test_losses_by_hand() -> None:
    logits = np.log(np.array([[1, 2, 1], [8, 1, 1]], np.float32))
    np.testing.assert_allclose(losses(logits, [1, 2]), [math.log(2), math.log(10)], rtol=1e-6)
    large = np.array([[1000, 0]], np.float32)
    np.testing.assert_allclose(losses(large, [1]), [1000])


def test_the_score_by_hand() -> None:
    score = Score()
    score.add(np.array([1.0]))
    assert (score.perplexity, score.error) == (pytest.approx(math.e), 0)
    score.add(np.array([2.0, 6.0]))
    # mean 3, variance 14/3, of three values: sqrt(14/3 / 2)
    assert score.perplexity == pytest.approx(math.exp(3))
    assert score.error == pytest.approx(math.exp(3) * math.sqrt(14 / 3 / 2))


def test_the_ratio_by_hand() -> None:
    one, other = Score([np.array([1.0, 5.0])]), Score([np.array([0.5, 4.0])])
    value, error = ratio(one, other)
    assert value == pytest.approx(math.exp(0.75))
    assert error == pytest.approx(math.exp(0.75) * math.sqrt(0.0625))


def test_chunks_are_whole_and_begin_with_bos() -> None:
    assert list(chunks([1, 2, 3, 4, 5, 6, 7], 3, bos=9)) == [[9, 2, 3], [9, 5, 6]]
    assert list(chunks([1, 2, 3, 4], 2, bos=None)) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("n_ctx", [7, 8])
def test_the_second_half_is_scored_as_transformers_would(tmp_path: Path, n_ctx: int) -> None:
    tiny = tiny_model("llama")
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 96, 3 * n_ctx + 2)]
    engine = tiny.file.engine(tmp_path, reference=True)
    found, wanted = Score(), []
    for piece in chunks(ids, n_ctx, bos=3):
        found.add(chunk_losses(engine, piece, lambda: None))
        logits = reference_logits(tiny.torch_model, piece).astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        # Of positions first..n_ctx - 2, each predicts the token behind it.
        wanted += [-math.log(shares[i, piece[i + 1]]) for i in range(n_ctx // 2, n_ctx - 1)]
    assert len(wanted) == 3 * (n_ctx - 1 - n_ctx // 2)
    np.testing.assert_allclose(found.all, wanted, rtol=1e-4)
    assert found.perplexity == pytest.approx(math.exp(np.mean(wanted)), rel=1e-4)


def test_long_chunks_are_scored_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_model("llama").file.engine(tmp_path, reference=True)
    ids = [int(i) for i in np.random.default_rng(2).integers(0, 96, 40)]
    whole = chunk_losses(engine, ids, lambda: None)
    monkeypatch.setattr("powerinfer_cli.runtime.perplexity.ROWS", 3)
    np.testing.assert_allclose(chunk_losses(engine, ids, lambda: None), whole, rtol=1e-4)


def test_running_values_and_the_final_estimate(words: str, text: str) -> None:
    result = powerinfer("perplexity", "-m", words, "-f", text, "-c", "20", "-t", "1")
    assert result.code == 0
    running, last = result.out.splitlines()
    values = re.findall(r"\[(\d+)\](\d+\.\d{4}),", running)
    assert [int(n) for n, _ in values] == list(range(1, 7))
    assert re.fullmatch(r"Final estimate: PPL = \d+\.\d{4} \+/- \d+\.\d{5}", last)
    assert final(result)[0] == float(values[-1][1])
    assert 1 < final(result)[0] < 1.1  # the model knows the story
    result.note(r"^6 chunks of 20 tokens$")
    result.note(r"^active neurons: \d+\.\d% mean \(predicted active: \d+\.\d%\)$")


def test_the_first_chunks_only(words: str, text: str) -> None:
    every = powerinfer("perplexity", "-m", words, "-f", text, "-c", "20", "-t", "1")
    two = powerinfer("perplexity", "-m", words, "-f", text, "-c", "20", "-t", "1", "--chunks", "2")
    assert every.out.startswith(two.out.splitlines()[0])
    assert two.out.count("[") == 2
    assert powerinfer("perplexity", "-m", words, "-f", text, "-c", "20", "-t", "1", "--chunks", "99").out == every.out


def test_small_batches_change_nothing_much(words: str, text: str) -> None:
    large, small = (
        final(powerinfer("perplexity", "-m", words, "-f", text, "-c", "20", "-t", "1", "-b", batch))
        for batch in ("2048", "3")
    )
    assert small == pytest.approx(large, rel=1e-3)


def blind(model: ModelFile) -> ModelFile:
    """The same model with predictors that let no neuron through, and FFNs that matter."""
    rng = np.random.default_rng(3)
    down = model.tensors["blk.0.ffn_down_t.weight"]
    changes = {"blk.0.ffn_down_t.weight": (0.02 * rng.standard_normal(down.shape)).astype(np.float32)}
    return replace(model.with_tensors(changes), metadata={**model.metadata, "powerinfer.sparse_threshold": 1e9})


def test_compare_with_every_neuron_active(tmp_path: Path, text: str) -> None:
    path = str(blind(word_model()).write(tmp_path / "blind.gguf"))
    result = powerinfer("perplexity", "-m", path, "-f", text, "-c", "20", "-t", "1", "--compare", "dense")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[2] == "with every neuron active:"
    one, other = (float(lines[i].split()[4]) for i in (1, 4))
    match = re.fullmatch(r"Ratio, predictor to every neuron: (\S+) \+/- (\S+)", lines[5])
    assert match is not None
    assert float(match[1]) == pytest.approx(one / other, rel=1e-3, abs=1e-5)
    assert abs(one / other - 1) > 0.01  # these neurons are missed
    assert "predicted active: 0.0%" in result.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no text: give -f FILE"),
        (["-f", "TEXT", "--chunks", "0"], "--chunks must be -1 (all) or at least 1, got 0"),
        (["-f", "TEXT", "-c", "3"], "-c must be at least 4, got 3"),
        (["-f", "TEXT", "--compare", "sparse"], "'sparse' is not"),
    ],
)
def test_usage_errors(words: str, text: str, args: list[str], message: str) -> None:
    result = powerinfer("perplexity", "-m", words, *(text if arg == "TEXT" else arg for arg in args))
    assert (result.code, result.out) == (2, "")
    assert message in result.error


def test_a_dense_model_has_nothing_to_compare(tmp_path: Path, text: str) -> None:
    path = str(tiny_model("llama").file.write(tmp_path / "dense.gguf"))
    result = powerinfer("perplexity", "-m", path, "-f", text, "--compare", "dense")
    assert result.code == 2
    assert "dense model" in result.error


def test_a_text_that_is_too_short_or_not_there(words: str, text: str) -> None:
    result = powerinfer("perplexity", "-m", words, "-f", text, "-c", "100")
    assert result.code == 1
    assert "tokens, but chunks of 100 need at least 200" in result.error
    result = powerinfer("perplexity", "-m", words, "-f", text + ".none")
    assert result.code == 1
    assert "cannot read" in result.error


def test_ctrl_c(words: str, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 500)
    with Process("perplexity", "-m", words, "-f", str(path), "-c", "16", "-t", "1") as running:
        running.wait_for("[2]")
        running.interrupt()
        result = running.wait()
    assert result.code == 130
    assert result.out.endswith("\n")
    assert "Final" not in result.out
    assert "Traceback" not in result.err
