"""What `powerinfer solve` says before it begins anything long, and what comes of it."""

import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import solver.comparison
import solver.default_text
import solver.predictor.training
import solver.run
import solver.stages
from tests.commands.solve.running import QUICK, data_of, solve
from tests.helpers.families import tiny_family
from tests.helpers.families.encoders import tiny_encoder, with_words
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.placed_model import (
    dense_model,
    write_placed,
)


def test_a_model_that_gains_nothing_is_told_so_and_no_more(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    before = sorted(tmp_path.iterdir())
    result = solve(path, "-f", text, "-t", "1", "--device-profile", "rtx-3090-ddr5")
    assert result.code == 0, result
    assert "verdict: silu, no neuron is ever exactly 0; " in result.out
    assert re.search(r"^not worth it: .* What helps instead: .*--force goes on all the same$", result.out, re.MULTILINE)
    assert {one.name for one in set(tmp_path.iterdir()) - set(before)} <= {"solver.json", "cache"}
    data = data_of(solve(path, "-f", text, "-t", "1", "--device-profile", "rtx-3090-ddr5", "--verdict", "--json"))
    assert data["verdict"]["pays"] is False
    assert data["verdict"]["bytes_best"] <= data["verdict"]["bytes_now"]
    assert data["plan"] is None


def test_a_verdict_says_that_the_model_does_not_know_the_text(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver.default_text, "FOREIGN", 0.1)
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    result = solve(path, "-f", text, "-t", "1", "--device-profile", "rtx-3090-ddr5", "--verdict")
    result.note("^the model hardly knows such text: its perplexity is [0-9,]+, where guessing has [0-9,]+; ")


def test_what_may_be_made_all_the_same_is_not_told_to_be_forced(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    result = solve(path, "-f", text, "--density", "0.5", "--device-profile", "rtx-3090-ddr5", *QUICK)
    assert result.code == 0, result
    assert "goes on all the same" not in result.note("^not worth it: .*")[0]
    result.note("^gradient steps: [0-9]+ s of the 30 min of --time-budget; ")


def test_a_model_in_which_no_predictor_pays_stays_dense(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver.predictor.training._Run, "_pays", lambda *_: False)
    path, merged = write_placed(tmp_path, statistics=False, model=dense_model()), tmp_path / "merged.gguf"
    flags = ("-f", text, "--density", "0.5", "--device-profile", "rtx-3090-ddr5", "--merge", str(merged), *QUICK)
    result = solve(path, *flags, "--json")
    assert data_of(result)["plan"] is None
    assert data_of(result)["merged"] is None
    result.note("^no layer is faster with a predictor: the model stays dense")
    result.note(f"^run the dense file: powerinfer main -m {path}$")
    assert not merged.exists()


@pytest.mark.parametrize("name", ["qwen35", "lfm2", "granitehybrid"])
def test_models_with_states_get_a_verdict(tmp_path: Path, text: str, name: str) -> None:
    path = spelled(tiny_family(name).file).write(tmp_path / "model.gguf")
    result = solve(path, "-f", text, "-t", "1", "--verdict")
    assert result.code == 0, result
    assert "verdict: silu, no neuron is ever exactly 0; " in result.out
    assert re.search("^(not )?worth it: ", result.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (lambda: spelled(tiny_family("mamba2").file), "layer 0 has no neurons"),
        (lambda: with_words(tiny_encoder("bert").file), "makes vectors of texts and decodes none"),
    ],
)
def test_what_has_no_verdict_is_told_why_in_a_line(
    tmp_path: Path, text: str, file: Callable[[], ModelFile], words: str
) -> None:
    result = solve(file().write(tmp_path / "model.gguf"), "-f", text, "--verdict")
    assert (result.code, result.out) == (1, "")
    assert words in result.error


def spelled(file: ModelFile) -> ModelFile:
    """With a vocabulary of letters."""
    n = len(file.tensors["token_embd.weight"])
    tokens = ["<unk>", "<s>", "</s>", "\u2581", *string.ascii_letters, ".", *map(str, range(n))][:n]
    vocabulary = {
        "model": "llama",
        "tokens": tokens,
        "scores": np.zeros(n, np.float32),
        "token_type": np.array([2, 3, 3, *[1] * (n - 3)], np.int32),
    }
    named = {f"tokenizer.ggml.{name}": value for name, value in vocabulary.items()}
    return replace(file, metadata={**file.metadata, **named})
