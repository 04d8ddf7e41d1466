"""Models without zeros: how sparse they may be, what that costs, and the merged file that says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.held_out_stages import density_stage, quality_stage
from solver.merge import merge
from solver.predictor.density import DensityMeter, find_density
from solver.predictor.layer import PredictorOptions
from solver.predictor.ranks import RankOptions
from solver.predictor.training import TrainOptions
from solver.profile.active import ActiveRule
from solver.stages import Place, SolverModel, predictor_stage, text_chunks
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB, tiny_model

ENGINE = EngineOptions(n_threads=1, reference=True)
IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 9 * 128)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SolverModel:
    path = tiny_model("llama").file.write(tmp_path_factory.mktemp("silu") / "model.gguf")
    return SolverModel(open_gguf(path), ENGINE, LoadEvents())


class Known(DensityMeter):
    """A meter whose losses are known, and that says what it was asked."""

    def __init__(self, enough: float) -> None:
        self.enough, self.asked = enough, list[float]()

    def loss(self, density: float) -> float:
        self.asked.append(density)
        return max(0.0, self.enough - density)


@pytest.mark.parametrize(("enough", "found"), [(0.5, 0.45), (0.0, 0.05), (0.12, 0.1), (1.2, 1.0)])
def test_the_lowest_density_within_the_loss_is_found(enough: float, found: float) -> None:
    meter = Known(enough)
    choice = find_density(meter, 0.06, LoadEvents())
    assert choice.density == pytest.approx(found)
    assert choice.loss <= 0.06
    assert len(meter.asked) <= 5
    assert [density for density, _ in choice.measured] == sorted({*meter.asked, 1.0})


def test_what_was_measured_is_kept() -> None:
    meter, kept = Known(0.5), [dict[float, float]()]
    whole = find_density(meter, 0.06, LoadEvents(), None, lambda found: kept.append(dict(found)))
    assert [len(found) for found in kept] == [0, 2, 3, 4, 5, 6]
    again = Known(0.5)
    assert find_density(again, 0.06, LoadEvents(), kept[-2]) == whole
    assert again.asked == meter.asked[-1:]


def test_the_search_goes_on_where_it_was_interrupted(
    model: SolverModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, place, asked = text_chunks(model, IDS[:512], None), Place(tmp_path), []

    def loss(_: DensityMeter, density: float) -> float:
        asked.append(density)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return 0.5 - density

    monkeypatch.setattr(DensityMeter, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        density_stage(model, chunks, None, 0.06, place)
    assert density_stage(model, chunks, None, 0.06, place).density == 0.45
    assert len(asked) == len(set(asked)) + 1, "but for the one that was interrupted, none is measured again"


def test_losses_are_those_of_the_largest_neurons(model: SolverModel) -> None:
    chunks = text_chunks(model, IDS, None)[:2]
    meter = DensityMeter(model.open_engine(), chunks)
    assert meter.loss(1.0) == 0
    assert abs(meter.loss(0.999)) < 1e-6, "one of 112 is still left out of none"
    assert abs(meter.loss(0.1)) > abs(meter.loss(0.9))
    dense = model.open_engine()
    dense.reset()
    logits = dense.logits(chunks[0]).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1))[16:-1] - logits[np.arange(16, 127), chunks[0][17:]]
    assert DensityMeter(model.open_engine(), chunks[:1]).perplexity == pytest.approx(np.exp(losses.mean()), rel=1e-4)


def test_a_given_density_is_measured(model: SolverModel) -> None:
    choice = density_stage(model, text_chunks(model, IDS, None), 0.5, None)
    assert choice.density == 0.5
    assert choice.loss != 0


def test_relu_models_have_no_density(tmp_path: Path) -> None:
    relu = SolverModel(open_gguf(tiny_model("llama-relu").file.write(tmp_path / "m.gguf")), ENGINE, LoadEvents())
    with pytest.raises(PowerInferError, match="there is nothing to choose"):
        density_stage(relu, text_chunks(relu, IDS, None), 0.5, None)
    assert ActiveRule.of(relu.config, 0.3) == ActiveRule(None)


def test_from_a_density_to_a_merged_file(model: SolverModel, tmp_path: Path) -> None:
    """What a SiLU model's merged file computes is what the dense one computes with these predictors beside it."""
    chunks, place = text_chunks(model, IDS, None), Place(tmp_path)
    options = TrainOptions(PredictorOptions(steps=60, batch=128), RankOptions(rank=96))
    reports = predictor_stage(model, chunks, place, ActiveRule.of(model.config, 0.4), options)
    assert [report.true_density for report in reports] == [pytest.approx(45 / 112)] * 2
    assert all(report.recall > 0.9 and report.predicted_density < 0.95 for report in reports)
    quality = quality_stage(model, chunks, place.predictor)
    assert quality.predicted == pytest.approx(np.mean([report.predicted_density for report in reports]), abs=0.1)
    assert abs(quality.loss) < 0.2
    merge(model.gguf, place.predictor, tmp_path / "merged.gguf", LoadEvents())
    merged = open_gguf(tmp_path / "merged.gguf")
    assert merged.metadata["powerinfer.activation"] == "silu"
    engine = Engine.load(merged, replace(ENGINE, all_active=True))
    check_logits(engine.logits(IDS[:50]), _dense(model).logits(IDS[:50]))


def _dense(model: SolverModel) -> Engine:
    engine = model.open_engine()
    engine.reset()
    return engine
