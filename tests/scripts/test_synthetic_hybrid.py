"""The synthetic Granite hybrid: a file that runs, of which both executors say the same."""

from pathlib import Path

import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.model.blocks import recurrent_layers
from powerinfer_cli.runtime import Engine, EngineOptions
from scripts.synthetic.granite_hybrid import HybridShape, write_hybrid
from tests.helpers.rounding import check_logits

SMALL = HybridShape(64, 96, 3, 4, 2, mamba_heads=4, mamba_dim=32, state=16, attention=(1,), vocab=400, ctx=64)


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_it_runs(tmp_path: Path, kind: str) -> None:
    write_hybrid(tmp_path / "model.gguf", SMALL, kind)
    gguf = open_gguf(tmp_path / "model.gguf")
    assert list(recurrent_layers(load_model(gguf).layers)) == [0, 2]
    options = {"n_ctx": 64, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    rows = [
        Engine.load(gguf, EngineOptions(**options, reference=plain)).logits(list(range(30))) for plain in (True, False)
    ]
    if kind == "F32":
        check_logits(rows[1], rows[0])
    assert (rows[0].argmax(1) == rows[1].argmax(1)).mean() > 0.8
