"""The bundled model, from its statistics to a plan's file and back."""

from dataclasses import replace
from pathlib import Path

import pytest

import powerinfer_cli
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import (
    Conditions,
    device_use,
    find_statistics,
    hot_bytes,
    load_statistics,
    model_fingerprint,
    read_gpuidx,
    stale_reason,
    statistics_fingerprint,
    write_gpuidx,
)
from powerinfer_cli.runtime import EngineOptions
from powerinfer_cli.runtime.device.bytes import model_bytes
from solver.placing.device_profile import load_profile
from solver.placing.planning import PlanSettings, make_plan

MODEL = Path(powerinfer_cli.__file__).parent / "bundled" / "storyteller.powerinfer.gguf"
N_CTX = 256


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_from_statistics_to_a_file_and_back(tmp_path: Path, share: float) -> None:
    gguf = open_gguf(MODEL)
    model = load_model(gguf)
    config = model.config
    folder = find_statistics(MODEL)
    assert folder is not None
    statistics = load_statistics(folder, config.n_ff)
    sizes = model_bytes(model, EngineOptions(), N_CTX)
    neurons = sum(layer.ffn for layer in sizes.layers)
    budgets = (sizes.total - neurons + round(share * neurons),)
    kind = model.layers[0].ffn.neurons.up.weight.type.name
    settings = PlanSettings(kind, config.n_embd, model_fingerprint(gguf))
    found = make_plan(sizes, statistics, budgets, load_profile("rtx-3060-12gb-ddr4"), settings)
    assert device_use(sizes, found.plan, 0).total <= budgets[0]
    assert found.gap < 0.05  # its layers are so small that handing over is most of what some plans cost
    assert (sum(found.plan.hot_counts) == sum(config.n_ff)) == (share == 1.0)
    made = Conditions(settings.fingerprint, budgets, N_CTX, "f16", "f16", statistics=statistics_fingerprint(statistics))
    path = tmp_path / "plan.gpuidx"
    write_gpuidx(path, found.plan, made, config.n_ff, hot_bytes(sizes, found.plan))
    index = read_gpuidx(path, config.n_ff)
    assert index.conditions is not None
    assert stale_reason(index.conditions, made) is None
    assert "256 tokens, and now it is 8" in str(stale_reason(index.conditions, replace(made, n_ctx=8)))
    for old, new in zip(found.plan.layers, index.plan.layers, strict=True):
        assert old.device == new.device
        assert old.hot.tolist() == new.hot.tolist()
