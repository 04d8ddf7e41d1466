"""Predictor training: it meets its recall target at a low density, reproducibly, whatever the residual's scale."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from solver.predictor import PredictorOptions, TrainedPredictor, measure, predict, train_predictor

OPTIONS = PredictorOptions(
    rank=24, recall=0.9, tolerance=0.02, epochs=8, rounds=4, batch=64, learning_rate=8e-3, seed=3
)


def layer(tokens: int = 1500) -> tuple[Tensor, Tensor]:
    """Residuals [tokens, 32] of very different sizes, and activations [tokens, 48] of neurons that fire rarely."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(tokens, 8, generator=generator) @ torch.randn(8, 32, generator=generator)
    unit = directions / directions.square().mean(dim=1, keepdim=True).sqrt()
    gate = unit @ torch.randn(32, 48, generator=generator) / math.sqrt(32)
    sizes = torch.exp(2 * torch.randn(tokens, 1, generator=generator))
    return unit * sizes, torch.relu(gate - 1.2)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return layer()


@pytest.fixture(scope="module")
def trained(data: tuple[Tensor, Tensor]) -> TrainedPredictor:
    return train_predictor(*data, OPTIONS)


def test_the_target_is_met_at_a_low_density(trained: TrainedPredictor) -> None:
    report = trained.report
    assert report.recall >= OPTIONS.recall - OPTIONS.tolerance
    assert 0.05 < report.true_density < 0.2
    assert report.true_density < report.predicted_density < 2.5 * report.true_density
    assert report.mass > report.recall, "strong activations are easier to foresee than weak ones"


def test_shapes_are_those_of_the_file(trained: TrainedPredictor) -> None:
    assert trained.fc1.shape == (24, 32)
    assert trained.fc2.shape == (48, 24)
    assert trained.report.rank == 24


def test_the_same_seed_gives_the_same_predictor(data: tuple[Tensor, Tensor], trained: TrainedPredictor) -> None:
    again = train_predictor(*data, OPTIONS)
    assert torch.equal(again.fc1, trained.fc1)
    assert torch.equal(again.fc2, trained.fc2)
    assert again.report == trained.report


def test_another_seed_gives_another_predictor(data: tuple[Tensor, Tensor]) -> None:
    short = replace(OPTIONS, epochs=1, rounds=0)
    first, second = (train_predictor(*data, replace(short, seed=seed)) for seed in (1, 2))
    assert not torch.equal(first.fc1, second.fc1)


def test_the_scale_of_the_residual_does_not_matter(data: tuple[Tensor, Tensor], trained: TrainedPredictor) -> None:
    inputs, activations = data
    small = measure(trained.fc1, trained.fc2, inputs * 0.01, activations)
    assert small.recall == pytest.approx(measure(trained.fc1, trained.fc2, inputs, activations).recall, abs=1e-3)


def test_more_recall_costs_density(data: tuple[Tensor, Tensor], trained: TrainedPredictor) -> None:
    strict = train_predictor(*data, replace(OPTIONS, recall=0.99, tolerance=0.005))
    assert strict.report.recall > trained.report.recall
    assert strict.report.predicted_density > trained.report.predicted_density


def test_a_mask_will_do_for_activations(data: tuple[Tensor, Tensor]) -> None:
    inputs, activations = data
    short = replace(OPTIONS, epochs=1, rounds=0)
    from_mask, from_values = (train_predictor(inputs, given, short) for given in (activations > 0, activations))
    assert torch.equal(from_mask.fc1, from_values.fc1)
    assert from_mask.report.recall == from_values.report.recall


def test_measure_by_hand() -> None:
    fc1 = torch.eye(2)
    fc2 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    inputs = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert predict(fc1, fc2, inputs).tolist() == [[2.0, 0.0, -2.0], [0.0, 3.0, -3.0]]
    activations = torch.tensor([[1.0, 0.0, 3.0], [0.0, 4.0, 0.0]])
    report = measure(fc1, fc2, inputs, activations, threshold=1.0)
    assert report.recall == pytest.approx(2 / 3)
    assert report.mass == pytest.approx(5 / 8)
    assert report.predicted_density == pytest.approx(2 / 6)
    assert report.true_density == pytest.approx(3 / 6)
    everything = measure(fc1, fc2, inputs, activations, threshold=-10.0)
    assert (everything.recall, everything.predicted_density) == (1.0, 1.0)


def test_a_layer_that_never_fires_is_measured() -> None:
    report = measure(torch.eye(2), torch.eye(2), torch.ones(4, 2), torch.zeros(4, 2))
    assert (report.recall, report.mass, report.true_density) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("inputs", "activations"), [(1, 1), (0, 0), (10, 9)])
def test_too_few_tokens_are_refused(inputs: int, activations: int) -> None:
    with pytest.raises(ValueError, match="cannot split"):
        train_predictor(torch.ones(inputs, 4), torch.ones(activations, 4), OPTIONS)
