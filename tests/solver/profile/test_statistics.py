"""Counting activations."""

import pytest
import torch

from solver.profile.statistics import Profile, count_active


def test_counts_by_hand() -> None:
    activations = torch.tensor([[0.0, 1.0, 2.0], [0.0, -1.0, 0.5]])
    counts = count_active(activations)
    assert counts.tolist() == [0, 2, 2]
    assert counts.dtype == torch.int64
    assert count_active(activations.view(2, 1, 3)).tolist() == [0, 2, 2]


def test_batches_add_up() -> None:
    profile = Profile()
    profile.add([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])])
    profile.add([torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])])
    assert [counts.tolist() for counts in profile.counts] == [[3, 1], [0, 1]]
    assert profile.tokens == 3
    assert profile.density() == pytest.approx([4 / 6, 1 / 6])


def test_layers_must_agree() -> None:
    profile = Profile()
    with pytest.raises(ValueError, match="same number of tokens"):
        profile.add([torch.ones(2, 4), torch.ones(3, 4)])
    profile.add([torch.ones(2, 4)])
    with pytest.raises(ValueError, match="2 layers after 1"):
        profile.add([torch.ones(2, 4), torch.ones(2, 4)])
