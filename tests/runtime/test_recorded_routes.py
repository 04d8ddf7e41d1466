"""Which experts a text's tokens need, as every executor tells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import ContextFull, Engine, EngineOptions
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.plans import plan_of

FAMILIES = ("qwen3moe", "gpt-oss", "deepseek2", "smallthinker", "gemma4-experts")


def recorded(engine: Engine, ids: list[int]) -> dict[int, np.ndarray]:
    found: dict[int, list[np.ndarray]] = {}
    engine.record_routes(ids, lambda layer, chosen: found.setdefault(layer, []).append(chosen.copy()))
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def placed(file: ModelFile, folder: Path, devices: list[int], share: float) -> Engine:
    gguf = file.open(folder)
    layers = load_model(gguf).layers
    where = (devices * len(layers))[: len(layers)]
    hot = [
        0.0 if at == MAIN_MEMORY else share if one.ffn.divisible else 1.0 for at, one in zip(where, layers, strict=True)
    ]
    plan = plan_of(file, where, hot, 0, groups=[one.ffn.n_groups for one in layers])
    options = EngineOptions(n_ctx=128, n_ubatch=32, n_threads=2, type_k="f32", type_v="f32")
    return Engine.load(gguf, options, placement=Placement(plan, ("cpu",)))


@pytest.mark.parametrize("name", FAMILIES)
def test_executors_agree(tmp_path: Path, name: str) -> None:
    """Batches of 32, 32 and 1 token. And nothing is left behind, nor has anything changed."""
    file, ids = tiny_family(name).file, PROMPT[:65]
    options: dict[str, Any] = {"n_ctx": 128, "n_ubatch": 32, "type_k": "f32", "type_v": "f32"}
    reference = file.engine(tmp_path, reference=True, **options)
    wanted = recorded(reference, ids)
    layers = load_model(file.open(tmp_path)).layers
    assert list(wanted) == [i for i, one in enumerate(layers) if one.ffn.divisible]
    for chosen in wanted.values():
        assert len(chosen) == len(ids)
        assert (np.diff(chosen, axis=1) > 0).all()
    engines = [
        file.engine(tmp_path, n_threads=2, **options),
        placed(file, tmp_path, [0], 0.4),
        placed(file, tmp_path, [MAIN_MEMORY, 0], 1.0),
    ]
    for engine in engines:
        before = engine.prefill(ids)
        found = recorded(engine, ids)
        assert found.keys() == wanted.keys()
        for layer, chosen in wanted.items():
            np.testing.assert_array_equal(found[layer], chosen)
        assert engine.n_past == 0
        np.testing.assert_array_equal(engine.prefill(ids), before)


def test_what_is_not_recorded(tmp_path: Path) -> None:
    for reference in (False, True):
        engine = tiny_family("qwen3moe").file.engine(tmp_path, n_ctx=32, reference=reference)
        with pytest.raises(PowerInferError, match="single neurons of a mixture's experts are not recorded"):
            engine.record(PROMPT[:9], lambda *_: None)
        with pytest.raises(ContextFull):
            engine.record_routes(PROMPT[:33], lambda *_: None)
