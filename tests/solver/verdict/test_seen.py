"""What predictors do that a model has already."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import Activation
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.decoding import Decoding
from solver.stages import SolverModel, text_chunks
from solver.verdict import Seen, look_at_predictors, seen
from solver.verdict.seen import LayerSeen
from tests.helpers.placing.placed_model import placed_model
from tests.helpers.tiny_models import N_VOCAB

IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 4 * 128)]
SPARSE, DENSE = LayerSeen(0.2, 0.09, 0.1, 64, 4e5, 1e6), LayerSeen(1.0, 0.1, 0.1, 0, 1e6, 1e6)
FOUND = Seen(
    Activation.RELU, (SPARSE, DENSE), 512, 10**6, Decoding(0.01, 0.1, 100), Decoding(0.015, 0.1, 100)
)  # fmt: skip


def test_what_is_told_of_predictors() -> None:
    lines = FOUND.lines()
    assert lines[1] == "  predictors let 20.0% of the neurons through, where 10.0% are active; of these they find 95.0%"
    assert "  1 of 2 layers are dense" in lines
    assert "  let through by layer, %: 20 100" in lines
    assert "  a token reads 2.4 MB, 3.0 MB with every neuron" in lines
    assert FOUND.sentence().startswith("predictors make it 1.50 times as fast")
    assert "a dense file" in replace(FOUND, sparse=FOUND.dense).sentence()
    graded = replace(FOUND, layers=(replace(SPARSE, active=None),))
    assert graded.found is None
    assert not any("active" in line for line in graded.lines())
    assert json.loads(json.dumps(FOUND.data()))["found"] == pytest.approx(0.95)


def test_predictors_are_seen_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "SECONDS", 0.02)
    events = LoadEvents()
    model = SolverModel(open_gguf(placed_model().write(tmp_path / "model.gguf")), EngineOptions(n_threads=1), events)
    chunks = text_chunks(model, IDS, None)
    found = look_at_predictors(model, chunks, events)
    assert "_engine" not in vars(model)
    engine = Engine(model.model, model.engine_options(), None, events)
    for chunk in chunks:
        engine.reset()
        engine.prefill(chunk[:256])
    predicted, fired = engine.stats.shares(model.config.n_layer)
    assert [layer.predicted for layer in found.layers] == pytest.approx(list(predicted))
    assert [layer.fired for layer in found.layers] == pytest.approx(list(fired))
    assert all(0 < layer.fired <= layer.predicted < 1 for layer in found.layers)
    assert all(layer.bytes_now < layer.bytes_dense for layer in found.layers)
    assert found.found is not None
    assert 0 < found.found <= 1
