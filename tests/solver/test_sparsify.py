"""From a model without zeros to predictors that are good enough."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_predictors
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver import sparsify as module
from solver.predictor import DensityChoice, PredictorOptions, PredictorReport, RankOptions, TrainOptions, training
from solver.predictor.ranks import Costs
from solver.sparsify import SparsifyWishes, sparsify
from solver.stages import Place, SolverModel, text_chunks
from tests.helpers.tiny_models import N_VOCAB, tiny_model

ENGINE = EngineOptions(n_threads=1, reference=True)
IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 6 * 128)]
OPTIONS = TrainOptions(PredictorOptions(steps=5, batch=64), RankOptions(rank=32))


def model_of(name: str, folder: Path, notes: list[str]) -> SolverModel:
    path = tiny_model(name).file.write(folder / "model.gguf")
    return SolverModel(open_gguf(path), ENGINE, LoadEvents(note=notes.append))


def test_a_given_density_is_kept_and_everything_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    model = model_of("llama", tmp_path, notes)
    chunks = text_chunks(model, IDS, None)
    first = sparsify(model, chunks, Place(tmp_path / "out"), SparsifyWishes(density=0.5), OPTIONS)
    assert first.rule.density == 0.5
    assert first.choice is not None
    assert first.choice.density == 0.5
    assert first.quality.sparse != first.quality.dense
    for stage in ("density_stage", "quality_stage"):
        monkeypatch.setattr(module, stage, None)
    again = sparsify(model, chunks, Place(tmp_path / "out"), SparsifyWishes(density=0.5), OPTIONS)
    assert again == first
    assert notes[-1].endswith("predictors kept")


def test_a_relu_model_needs_no_density(tmp_path: Path) -> None:
    notes: list[str] = []
    model = model_of("llama-relu", tmp_path, notes)
    found = sparsify(model, text_chunks(model, IDS, None), Place(tmp_path / "out"), SparsifyWishes(), OPTIONS)
    assert found.choice is None
    assert found.rule.density is None
    assert found.quality.active is not None


@pytest.mark.parametrize(
    ("losses", "densities", "through"),
    [
        ([0.01], [0.3], 0.4),
        ([0.2, 0.01], [0.3, 0.4], 0.4),
        ([0.2] * 5, [0.3, 0.4, 0.5], 0.4),
        ([0.2], [0.3], 0.95),
    ],
)
def test_predictors_that_cost_too_much_are_made_for_a_higher_density(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], densities: list[float], through: float
) -> None:
    """Unless they let nearly everything through."""
    notes: list[str] = []
    model = model_of("llama", tmp_path, notes)
    chunks = text_chunks(model, IDS, None)
    measured = iter(losses)
    real = module.quality_stage
    monkeypatch.setattr(module, "density_stage", lambda *_: DensityChoice(0.3, 0.04, ((0.3, 0.04), (1.0, 0.0))))
    monkeypatch.setattr(module, "quality_stage", lambda *given: replace(real(*given), loss=next(measured)))
    make = module.predictor_stage

    def made(*given: Any, **named: Any) -> list[PredictorReport]:
        return [replace(report, predicted_density=through) for report in make(*given, **named)]

    monkeypatch.setattr(module, "predictor_stage", made)
    found = sparsify(model, chunks, Place(tmp_path / "out"), SparsifyWishes(), OPTIONS)
    assert found.rule.density == pytest.approx(densities[-1])
    assert any("would spare nothing" in note for note in notes) is (through > 0.9)
    tried = [note for note in notes if "trying" in note]
    assert len(tried) == len(densities) - 1
    if tried:
        assert tried[0] == "density 30%: perplexity +20.0% with predictors, but +5.0% is allowed: trying 40%"


def test_layers_that_read_no_less_with_a_predictor_get_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a hidden neuron costs more than the whole layer, that is all of them."""
    notes: list[str] = []
    model, options = model_of("llama", tmp_path, notes), replace(OPTIONS, ranks=RankOptions())
    monkeypatch.setattr(training, "layer_costs", lambda *_: Costs(neuron=1, hidden=1e6, dense=1000))
    found = sparsify(model, text_chunks(model, IDS, None), Place(tmp_path / "out"), SparsifyWishes(0.5), options)
    assert all(report.is_dense and report.predicted_density == 1 for report in found.reports)
    assert all(report.true_density == pytest.approx(0.5, abs=0.02) for report in found.reports)
    assert found.quality.loss == pytest.approx(0, abs=1e-6)
    assert "layer 0: dense" in " ".join(notes), notes
    config = model.config
    predictors = load_predictors(tmp_path / "out" / "predictor", config.n_embd, config.n_ff)
    assert predictors.dense_layers == tuple(range(config.n_layer))
