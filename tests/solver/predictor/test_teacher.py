"""What a layer's weights say of its neurons, for each kind of layer: the sign of rows @ residual."""

from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.runtime import Engine, EngineOptions
from solver.predictor.samples import Samples
from solver.predictor.teacher import neuron_rows
from tests.helpers.tiny_models import N_VOCAB, tiny_model

IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 120)]


@pytest.mark.parametrize(
    ("name", "least"),
    [("llama-relu", 0.999), ("falcon-7b-relu", 0.9), ("falcon-40b-relu", 0.9), ("opt", 0.9), ("bamboo", 0.7)],
)
def test_the_sign_is_active(name: str, least: float, tmp_path: Path) -> None:
    """Exactly for an RMS norm; nearly where biases or a mean come in, for which a direction stands; bamboo's up
    projection switches neurons off as well."""
    gguf = open_gguf(tiny_model(name).file.write(tmp_path / "model.gguf"))
    engine = Engine.load(gguf, EngineOptions(n_threads=1, n_ctx=120, reference=True))
    seen: dict[int, Samples] = {}

    def tap(layer: int, residual: np.ndarray, activations: np.ndarray) -> None:
        seen[layer] = Samples.of(torch.tensor(residual), torch.tensor(activations))

    engine.record(IDS, tap)
    for layer, weights in enumerate(load_model(gguf).layers):
        unit, active = seen[layer].unit_inputs(), seen[layer].labels()
        said = unit @ neuron_rows(weights, unit).T > 0
        assert (said == active).float().mean() > least
        if name == "bamboo":
            assert (said | ~active).all(), "whoever is active has an open gate"
