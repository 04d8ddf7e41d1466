"""Models whose neurons have exact zeros, their down matrices transposed, without predictors: in every executor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.families import PROMPT, TinyFamily, tiny_family
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits

OPTIONS = {"n_ctx": 128, "n_ubatch": 32, "n_threads": 1, "type_k": "f32", "type_v": "f32"}


def turned(file: ModelFile) -> ModelFile:
    """The same file, down matrices transposed."""
    changes: dict[str, np.ndarray | None] = {}
    for name, tensor in file.tensors.items():
        if name.endswith("ffn_down.weight"):
            changes |= {name: None, name.replace("ffn_down", "ffn_down_t"): np.ascontiguousarray(tensor.T)}
    return file.with_tensors(changes)


@pytest.fixture(scope="module", params=["arcee", "nemotron", "nemotron-biases"])
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return tiny_family(request.param)


def told(engine: Engine) -> np.ndarray:
    """A prompt in batches with all its logits, and token by token."""
    return np.stack([*engine.logits(PROMPT[:40]), *map(engine.decode, PROMPT[40:])])


@pytest.mark.parametrize("reference", [False, True])
def test_without_a_predictor(family: TinyFamily, tmp_path: Path, reference: bool) -> None:
    engine = Engine.load(turned(family.file).open(tmp_path), EngineOptions(**OPTIONS, reference=reference))
    assert not engine.config.sparse
    check_logits(told(engine), family.reference)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_neurons_are_divided(family: TinyFamily, tmp_path: Path, share: float) -> None:
    """None of them hot, some, or all; the rest of each layer is on the device."""
    file = turned(family.file)
    devices = [0] * file.n_layer
    placement = Placement(plan_of(file, devices, [share] * file.n_layer, 0), ("cpu",))
    engine = Engine.load(file.open(tmp_path), EngineOptions(**OPTIONS), placement=placement)
    check_logits(told(engine), family.reference)


def test_one_layer_is_divided(family: TinyFamily, tmp_path: Path) -> None:
    file = turned(family.file)
    devices = [MAIN_MEMORY] * (file.n_layer - 1) + [0]
    placement = Placement(plan_of(file, devices, [0.5] * file.n_layer, MAIN_MEMORY), ("cpu",))
    engine = Engine.load(file.open(tmp_path), EngineOptions(**OPTIONS), placement=placement)
    check_logits(told(engine), family.reference)


@pytest.mark.parametrize("share", [None, 0.3])
def test_fatrelu(tmp_path: Path, share: float | None) -> None:
    """As the plain twin has it, on the CPU alone and divided; with a threshold that changes what is computed."""
    file = turned(tiny_family("arcee").file)
    named = file.with_metadata(hidden_activation="fatrelu")
    file = replace(named, metadata={**named.metadata, "powerinfer.activation_threshold": 0.5})
    plain = told(Engine.load(file.open(tmp_path), EngineOptions(**OPTIONS, reference=True)))
    devices = [0] * file.n_layer
    placement = None if share is None else Placement(plan_of(file, devices, [share] * file.n_layer, 0), ("cpu",))
    check_logits(told(Engine.load(file.open(tmp_path), EngineOptions(**OPTIONS), placement=placement)), plain)
    relu = Engine.load(named.with_metadata(hidden_activation="relu").open(tmp_path), EngineOptions(**OPTIONS))
    assert np.abs(told(relu) - plain).max() > 0.1


def test_other_neurons_need_predictors(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="ffn_down"):
        Engine.load(turned(tiny_family("llama").file).open(tmp_path), EngineOptions(**OPTIONS))
