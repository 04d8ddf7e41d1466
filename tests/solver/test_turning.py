"""Types of turned down matrices, by what they cost."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model.turned import DownType, Width
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.perplexity import Score
from solver import turning
from solver.turning import narrowest_down

IDS = [1] * 600
UNSURE = 0.002 + 0.2 * np.resize([1.0, -1.0], 500)  # losses of which little is known


@pytest.mark.parametrize(
    ("costs", "taken", "told"),
    [
        ({"Q4_0": 0.002}, Width.SAME, 1),
        ({"Q4_0": 0.03, "Q5_1": 0.004}, GGMLType.Q5_K, 2),
        ({"Q4_0": UNSURE, "Q5_1": 0.004}, GGMLType.Q5_K, 2),
        ({"Q4_0": 0.03, "Q5_1": 0.02}, Width.AUTO, 2),
    ],
)
def test_the_narrowest_that_costs_hardly_anything_is_taken(
    monkeypatch: pytest.MonkeyPatch, costs: dict[str, Any], taken: DownType, told: int
) -> None:
    """Rows of 64 are no whole blocks of 256: what stands for those is tried."""
    weight = SimpleNamespace(type=GGMLType.Q4_0)
    neurons = SimpleNamespace(down=SimpleNamespace(weight=weight))
    layer = SimpleNamespace(ffn=SimpleNamespace(neurons=neurons))
    model: Any = SimpleNamespace(layers=[layer], config=SimpleNamespace(n_embd=64))
    tried: list[str] = []

    def turned(model: Any, _: Any, fit: Any, down: DownType) -> Any:
        tried.append(turning.down_type(weight.type, 64, down).name)
        return model

    def scored(*_: Any) -> Score:
        return Score([np.linspace(1, 2, 500) + costs.get(tried[-1], 0.0)])

    monkeypatch.setattr(turning, "with_predictors", turned)
    monkeypatch.setattr(turning, "score", scored)
    monkeypatch.setattr(turning, "Engine", lambda *_: SimpleNamespace(close=lambda: None))
    notes: list[str] = []
    none: Any = None
    found = narrowest_down(model, none, EngineOptions(n_threads=1), IDS, LoadEvents(note=notes.append))
    assert found == taken
    assert len(notes) == told
    assert tried[:2] == ["Q8_0", "Q4_0"]
    with pytest.raises(PowerInferError, match="no text is held out"):
        narrowest_down(model, none, EngineOptions(n_threads=1), [], LoadEvents())


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.Q8_0])
def test_nothing_narrower_than_the_own_width_is_tried(kind: GGMLType) -> None:
    weight: Any = SimpleNamespace(type=kind)
    layer = SimpleNamespace(ffn=SimpleNamespace(neurons=SimpleNamespace(down=SimpleNamespace(weight=weight))))
    model: Any = SimpleNamespace(layers=[layer], config=SimpleNamespace(n_embd=4096))
    none: Any = None
    assert narrowest_down(model, none, EngineOptions(n_threads=1), IDS, LoadEvents()) is Width.AUTO
