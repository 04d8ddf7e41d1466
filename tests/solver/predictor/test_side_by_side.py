"""How many layers' predictors are made at a time."""

import pytest
import torch

from solver.predictor import training


@pytest.mark.parametrize(("resident", "wanted"), [(0, 4), (1 << 30, 2), (2 << 30, 1)])
def test_memory_says_how_many_layers_at_once(monkeypatch: pytest.MonkeyPatch, resident: int, wanted: int) -> None:
    """Of a model of half a GiB, where a GiB may be taken besides and a layer takes a quarter of one."""
    monkeypatch.setattr(training, "resident_memory", lambda: resident)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert training.layers_at_once(1 << 29, 1 << 28) == wanted
