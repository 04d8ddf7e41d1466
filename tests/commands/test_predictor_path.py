"""`--predictor-path`: a dense model with predictors from a directory, in every command that runs models."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.commands.bench import run as bench_run
from tests.helpers.kernels.sparse_reference import Predictor
from tests.helpers.main_cli import powerinfer
from tests.helpers.predictor_files import save_predictors
from tests.helpers.result import Result
from tests.helpers.word_model import STORY, word_model

N_FF = 32


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The word model as a dense one with SiLU, and with FFNs that matter a little."""
    model = word_model()
    down = model.tensors["blk.0.ffn_down_t.weight"]
    noise = (0.02 * np.random.default_rng(3).standard_normal(down.T.shape)).astype(np.float32)
    changes = {f"blk.0.{name}.weight": None for name in ("ffn_down_t", "fc1", "fc2")}
    changed = model.with_tensors({**changes, "blk.0.ffn_down.weight": noise})
    folder: Path = tmp_path_factory.mktemp("dense")
    return str(replace(changed, sparse=False).write(folder / "dense.gguf"))


def predictors() -> list[Predictor]:
    """One layer's, whose logits are 1 for the first half of the neurons, else -1, whatever it looks at."""
    n_embd = word_model().tensors["token_embd.weight"].shape[1]
    fc1 = np.concatenate([np.ones((1, n_embd), np.float32), -np.ones((1, n_embd), np.float32)])
    fc2 = np.where(np.arange(N_FF)[:, None] < N_FF // 2, 1, -1) * np.ones((1, 2))
    return [(fc1, fc2.astype(np.float32))]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(save_predictors(tmp_path / "predictors", predictors(), 0.001))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(STORY * 12)
    return str(path)


def estimate(result: Result) -> float:
    assert result.code == 0, result
    match = re.search(r"^Final estimate: PPL = (\S+) ", result.out, re.MULTILINE)
    assert match is not None
    return float(match[1])


def test_perplexity_beside_the_dense_model(dense: str, folder: str, text: str) -> None:
    score = ("perplexity", "-m", dense, "-f", text, "-c", "20", "-t", "1")
    plain = powerinfer(*score)
    assert "active neurons" not in plain.err
    half = powerinfer(*score, "--predictor-path", folder, "--compare", "dense")
    half.note(r"^active neurons: 50\.0% mean \(predicted active: 50\.0%\)$")
    lines = half.out.splitlines()
    assert lines[2] == "with every neuron active:"
    assert lines[3:5] == plain.out.splitlines()
    match = re.fullmatch(r"Ratio, predictor to every neuron: (\S+) \+/- (\S+)", lines[5])
    assert match is not None
    assert float(match[1]) == pytest.approx(estimate(half) / estimate(plain), rel=1e-3, abs=1e-5)
    assert abs(float(match[1]) - 1) > 1e-3  # half of the neurons are missed


def test_a_threshold_that_lets_everything_through(
    dense: str, folder: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = ("perplexity", "-m", dense, "-f", text, "-c", "20", "-t", "1")
    monkeypatch.setenv("LLAMA_SPARSE_PRED_THRESHOLD", "-inf")
    every = powerinfer(*score, "--predictor-path", folder)
    assert estimate(every) == pytest.approx(estimate(powerinfer(*score)), rel=1e-4)
    every.note(r"predicted active: 100\.0%")


def test_main_writes_and_says_what_it_runs(dense: str, folder: str) -> None:
    done = powerinfer(
        "main", "-m", dense, "--predictor-path", folder, "-p", "Once", "-n", "6", "--temp", "0", "-t", "1"
    )
    assert done.code == 0
    assert re.match(r"Once \S", done.out)
    done.note(rf"^predictors: {re.escape(folder)} \(threshold 0\.001\)$")
    done.note(r"^model:   words \(llama, dense\), ")
    assert "50.0%" in done.err


def test_bench_counts_predicted_neurons(dense: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "measure_bandwidth", lambda threads, cores: threads * 1e10)
    bench = ("bench", "-m", dense, "-p", "0", "-n", "4", "-r", "1", "-t", "1", "-o", "json")
    (plain,) = json.loads(powerinfer(*bench).out)
    (half,) = json.loads(powerinfer(*bench, "--predictor-path", folder).out)
    assert (plain["active_neurons"], plain["predicted_neurons"]) == (None, None)
    assert (half["active_neurons"], half["predicted_neurons"]) == (0.5, 0.5)
    n_embd = predictors()[0][0].shape[1]
    # Half of three matrices of F32 is not read, but the predictor is: fc1 [2, n_embd], fc2 [N_FF, 2].
    saved = 3 * N_FF * n_embd * 4 / 2 - (2 * n_embd + 2 * N_FF) * 4
    assert plain["bytes_per_token"] - half["bytes_per_token"] == pytest.approx(saved, abs=1)


def test_statistics_beside_the_model_are_used_if_they_fit(dense: str, folder: str, tmp_path: Path, text: str) -> None:
    model = tmp_path / "moved" / "dense.gguf"
    model.parent.mkdir()
    model.write_bytes(Path(dense).read_bytes())
    counts = torch.full((N_FF,), 5.0)
    counts[:8], counts[8:] = 20_000, 0  # always, and never
    (model.parent / "activation").mkdir()
    torch.save(counts, model.parent / "activation" / "activation_0.pt")
    score = ("perplexity", "-m", str(model), "-f", text, "-c", "20", "-t", "1")
    powerinfer(*score, "--predictor-path", folder).note(r"predicted active: 25\.0%")
    torch.save(counts[1:], model.parent / "activation" / "activation_0.pt")
    wrong = powerinfer(*score, "--predictor-path", folder)
    wrong.note(r"^activation statistics are not used: ")
    wrong.note(r"predicted active: 50\.0%")
    assert "statistics" not in powerinfer(*score).err


@pytest.mark.parametrize("command", ["main", "bench", "perplexity"])
def test_predictors_that_are_none(dense: str, folder: str, text: str, tmp_path: Path, command: str) -> None:
    args = {"main": ["-p", "Once", "-n", "1"], "bench": ["-p", "8", "-n", "0"], "perplexity": ["-f", text, "-c", "20"]}
    run = (command, "-m", dense, *args[command], "-t", "1", "--predictor-path")
    for path, complaint in (
        (str(tmp_path / "none"), "cannot read the predictors"),
        (str(tmp_path), "model_0.pt is miss"),
    ):
        done = powerinfer(*run, path)
        assert done.code == 1
        assert complaint in done.error
    (fc1, fc2) = predictors()[0]
    save_predictors(Path(folder), [(fc1[:, 1:], fc2)])
    done = powerinfer(*run, folder)
    assert done.code == 1
    assert "model_0.pt: a predictor of another model" in done.error
