"""Predictor training: it meets its recall target at a low density, reproducibly, whatever the residual's scale."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from solver.predictor.layer import PredictorOptions, TrainedPredictor, measure, predict, train_predictor
from solver.predictor.samples import Samples, pack, unpack
from solver.predictor.start import Residuals, start_from_rows

OPTIONS = PredictorOptions(rank=32, recall=0.9, margin=0.005, steps=250, batch=64, validation_share=0.1, seed=3)
N_EMBD, N_FF = 32, 48


def layer(tokens: int = 3000) -> tuple[Tensor, Tensor, Tensor]:
    """Residuals [tokens, 32] of very different sizes, activations [tokens, 48] of neurons that fire rarely, and the
    map [48, 32] behind these. As in real models, residuals have a direction that they all share."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(N_EMBD, generator=generator)
    directions = torch.randn(tokens, 12, generator=generator) @ torch.randn(12, N_EMBD, generator=generator) / 4
    x = directions + shared
    unit = x / x.square().mean(dim=1, keepdim=True).sqrt()
    rows = torch.randn(N_FF, N_EMBD, generator=generator) / math.sqrt(N_EMBD)
    rows -= torch.outer(rows @ shared + 1.2, shared) / shared.square().sum()  # the gate's mean is about -1.2
    sizes = torch.exp(2 * torch.randn(tokens, 1, generator=generator))
    return unit * sizes, torch.relu(unit @ rows.T), rows


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor, Tensor]:
    return layer()


@pytest.fixture(scope="module")
def trained(data: tuple[Tensor, Tensor, Tensor]) -> TrainedPredictor:
    return train_predictor(data[0], data[1], OPTIONS)


def test_the_target_is_met_at_a_low_density(trained: TrainedPredictor, data: tuple[Tensor, Tensor, Tensor]) -> None:
    report = trained.report
    assert report.recall >= OPTIONS.recall
    assert 0.05 < report.true_density < 0.2
    assert report.excess < 1.3
    measured = measure(trained.fc1, trained.fc2, *data[:2])
    assert measured.mass > measured.recall, "strong activations are easier to foresee than weak ones"


def test_with_the_map_known_and_of_low_rank_no_training_is_needed(data: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, activations, rows = data
    known = train_predictor(inputs, activations, replace(OPTIONS, rank=16, recall=0.99, steps=0), rows)
    assert known.report.recall >= 0.99
    assert known.report.excess < 1.1
    blind = train_predictor(inputs, activations, replace(OPTIONS, rank=16, recall=0.99, steps=0))
    assert blind.report.excess > known.report.excess


def test_training_improves_on_its_start(data: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, activations, rows = data
    narrow = replace(OPTIONS, rank=8)
    before = train_predictor(inputs, activations, replace(narrow, steps=0), rows).report
    after = train_predictor(inputs, activations, narrow, rows).report
    assert after.recall >= OPTIONS.recall
    assert after.predicted_density < 0.97 * before.predicted_density


def test_shapes_are_those_of_the_file(trained: TrainedPredictor) -> None:
    assert trained.fc1.shape == (32, N_EMBD)
    assert trained.fc2.shape == (N_FF, 32)
    assert trained.report.rank == 32


def test_a_rank_beyond_all_directions_leaves_neurons_idle(data: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, activations, rows = data
    wide = train_predictor(inputs, activations, replace(OPTIONS, rank=64, steps=0), rows)
    assert wide.fc1.shape == (64, N_EMBD)
    assert not wide.fc1[N_EMBD + 1 :].any()
    assert wide.report.recall >= OPTIONS.recall


def test_the_same_seed_gives_the_same_predictor(data: tuple[Tensor, Tensor, Tensor], trained: TrainedPredictor) -> None:
    again = train_predictor(data[0], data[1], OPTIONS)
    assert torch.equal(again.fc1, trained.fc1)
    assert torch.equal(again.fc2, trained.fc2)
    assert again.report == trained.report


def test_another_seed_gives_another_predictor(data: tuple[Tensor, Tensor, Tensor]) -> None:
    short = replace(OPTIONS, steps=5)
    first, second = (train_predictor(data[0], data[1], replace(short, seed=seed)) for seed in (1, 2))
    assert not torch.equal(first.fc1, second.fc1)


def test_the_scale_of_the_residual_does_not_matter(
    data: tuple[Tensor, Tensor, Tensor], trained: TrainedPredictor
) -> None:
    inputs, activations, _ = data
    small = measure(trained.fc1, trained.fc2, inputs * 0.01, activations)
    assert small.recall == pytest.approx(measure(trained.fc1, trained.fc2, inputs, activations).recall, abs=1e-3)


def test_more_recall_costs_density(data: tuple[Tensor, Tensor, Tensor], trained: TrainedPredictor) -> None:
    strict = train_predictor(data[0], data[1], replace(OPTIONS, recall=0.99))
    assert strict.report.recall >= 0.99
    assert strict.report.predicted_density > trained.report.predicted_density


def test_a_mask_will_do_for_activations(data: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, activations, _ = data
    short = replace(OPTIONS, steps=5)
    from_mask, from_values = (train_predictor(inputs, given, short) for given in (activations > 0, activations))
    assert torch.equal(from_mask.fc1, from_values.fc1)
    assert from_mask.report == from_values.report


def test_neurons_below_zero_are_active_too() -> None:
    """What reaches the down matrix is act(gate) * up, of either sign."""
    report = measure(torch.eye(2), torch.eye(2), torch.tensor([[1.0, -1.0]]), torch.tensor([[-2.0, 0.0]]))
    assert (report.recall, report.mass, report.true_density) == (1.0, 1.0, 0.5)


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


def test_a_layer_that_never_fires_is_trained_and_measured() -> None:
    report = measure(torch.eye(2), torch.eye(2), torch.ones(4, 2), torch.zeros(4, 2))
    assert (report.recall, report.mass, report.true_density) == (1.0, 1.0, 0.0)
    idle = train_predictor(torch.randn(400, 8), torch.zeros(400, 8), replace(OPTIONS, rank=4, steps=3))
    assert torch.isfinite(idle.fc2).all()


@pytest.mark.parametrize(("inputs", "activations"), [(1, 1), (0, 0), (10, 9)])
def test_too_few_tokens_are_refused(inputs: int, activations: int) -> None:
    with pytest.raises(ValueError, match=r"cannot split|do not belong together"):
        train_predictor(torch.ones(inputs, 4), torch.ones(activations, 4), OPTIONS)


@pytest.mark.parametrize("n_ff", [1, 8, 13])
def test_bits_come_back(n_ff: int) -> None:
    mask = torch.rand(5, n_ff, generator=torch.Generator().manual_seed(n_ff)) > 0.5
    assert pack(mask).shape == (5, -(-n_ff // 8))
    assert torch.equal(unpack(pack(mask), n_ff), mask)


def test_tokens_are_held_back_in_blocks_all_over_the_text() -> None:
    samples = Samples.of(torch.arange(40000.0)[:, None], torch.zeros(40000, 1))
    train, held = samples.split(0.05)
    assert len(train) + len(held) == 40000
    assert len(held) / 40000 == pytest.approx(0.05, rel=0.05)
    numbers = held.inputs[:, 0]
    jumps = numbers[1:] - numbers[:-1]
    assert set(jumps.tolist()) == {1.0, 64.0 * 19 + 1}
    assert not set(numbers.tolist()) & set(train.inputs[:, 0].tolist())


def test_a_start_of_full_rank_is_the_map(data: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, _, rows = data
    unit = Samples.of(inputs, inputs).unit_inputs()
    fc1, fc2 = start_from_rows(Residuals(Samples.of(inputs, inputs)), rows, N_EMBD, 0).predictor(N_EMBD + 1)
    wanted, found = unit @ rows.T, predict(fc1, fc2, unit)
    assert ((wanted > 0) == (found > 0)).float().mean() > 0.99


def neurons_cut_unevenly(graded: bool) -> tuple[Samples, Tensor]:
    """A rank of 8 says all of one half of the neurons, and little of the others; a share of 5 to 30 % is active.

    graded: by a threshold on their size, as in a model without zeros, so that the map is not known.
    """
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(6000, 40, generator=generator)
    x[:, 0] = 6
    rows = torch.zeros(64, 40)
    rows[:32, 1:8] = torch.randn(32, 7, generator=generator) * 3
    rows[32:, 8:] = torch.randn(32, 32, generator=generator)
    rows[:, 0] = -rows.norm(dim=1) * torch.linspace(0.5, 1.6, 32).repeat(2) / 6
    noise = 0.2 * torch.randn(6000, 64, generator=generator) * rows.norm(dim=1) if graded else 0.0
    return Samples.of(x, x @ rows.T + noise > 0), rows


@pytest.mark.parametrize("graded", [False, True])
def test_neurons_of_which_less_is_known_get_thresholds_of_their_own(graded: bool) -> None:
    """Against the same logits, neuron by neuron, at one threshold for all."""
    samples, rows = neurons_cut_unevenly(graded)
    found = train_predictor(
        samples.inputs, samples.labels(), replace(OPTIONS, rank=9, recall=0.95, steps=0), None if graded else rows
    )
    logits = predict(found.fc1, found.fc2, samples.unit_inputs())
    plain = (logits - logits.mean(dim=0)) / logits.std(dim=0) - (rows[:, 0] * -6 / rows[:, 1:].norm(dim=1))
    threshold = plain[samples.labels()].quantile(0.04) if plain.numel() < 1 << 20 else 0.0
    alike = (plain >= threshold).float().mean()
    assert found.report.recall >= 0.95
    assert found.report.predicted_density < 0.9 * alike


def test_constants_do_not_spoil_the_block_that_they_are_stored_in(data: tuple[Tensor, Tensor, Tensor]) -> None:
    """A block of 32 numbers has one scale."""
    inputs, activations, rows = data
    _, fc2 = start_from_rows(Residuals(Samples.of(inputs, activations)), rows, N_EMBD, 0).predictor(32)
    assert fc2[:, 0].square().mean() <= 1.01 * fc2[:, 1:].square().mean()
