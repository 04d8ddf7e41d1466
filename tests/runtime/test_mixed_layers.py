"""Models that are sparse in some layers only: the others compute every neuron, in every executor."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.model import Predictors, load_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.kernels.sparse_reference import Predictor, masked_logits, predictor_mask, random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, TinyModel, tiny_model

NAMES = ("llama-relu", "falcon-7b-relu", "opt", "llama")
OPTIONS: dict[str, Any] = {"n_ctx": 64, "n_threads": 2, "type_k": "f32", "type_v": "f32"}


@pytest.fixture(scope="module", params=NAMES)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    """In the last the largest of SiLU neurons are let through."""
    return tiny_model(request.param)


@pytest.fixture(params=[0, 1], ids=lambda layer: f"layer-{layer}-dense")
def dense(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


def predictors_but(tiny: TinyModel, dense: int) -> list[Predictor | None]:
    return [None if layer == dense else pair for layer, pair in enumerate(random_predictors(tiny))]


def mixed(tiny: TinyModel, dense: int, turned: bool) -> ModelFile:
    file = tiny.file.sparsified(predictors_but(tiny, dense), turned=turned)
    own = {} if tiny.name != "llama" else {"powerinfer.activation": "silu"}
    return replace(file, metadata={**file.metadata, **own})


def wanted_logits(tiny: TinyModel, dense: int) -> np.ndarray:
    mask = predictor_mask(random_predictors(tiny), 0.0)

    def some(layer: int, x: torch.Tensor) -> torch.Tensor:
        found = mask(layer, x)
        return torch.ones_like(found) if layer == dense else found

    return masked_logits(tiny, PROMPT, some, "input" if tiny.file.arch == "falcon" else "attended")


def feed(engine: Engine) -> np.ndarray:
    return np.concatenate([engine.logits(PROMPT[:9]), np.stack([engine.decode(t) for t in PROMPT[9:]])])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("reference", [False, True])
def test_in_main_memory(tiny: TinyModel, dense: int, tmp_path: Path, turned: bool, reference: bool) -> None:
    engine = mixed(tiny, dense, turned).engine(tmp_path, reference=reference)
    assert engine.config.sparse
    wanted = wanted_logits(tiny, dense)
    check_logits(feed(engine), wanted)
    assert np.abs(wanted - tiny.reference).max() > 0.1
    predicted, fired = engine.stats.shares(2)
    assert 0.2 < predicted[1 - dense] < 0.8
    assert predicted[dense] == 1
    counted = turned and not reference  # by rows
    assert (fired[dense] < 1) == (counted and tiny.name != "llama")


def test_few_tokens_at_a_time(tiny: TinyModel, dense: int, tmp_path: Path) -> None:
    """Of two sequences, with the same text."""
    engine = mixed(tiny, dense, turned=False).engine(tmp_path, n_ctx=128, n_sequences=2)
    wanted = wanted_logits(tiny, dense)
    for at, token in enumerate(PROMPT):
        for found in engine.step([Piece(i, [token], Wanted.LAST) for i in range(2)]):
            assert found is not None
            check_logits(found, wanted[at])


PLANS: dict[str, Callable[[int], tuple[list[int], list[float], int]]] = {
    "the dense layer in main memory": lambda dense: (
        [MAIN_MEMORY if i == dense else 0 for i in range(2)],
        [0.5, 0.5],
        0,
    ),
    "the dense layer on the GPU": lambda dense: ([0, 0], [1.0 if i == dense else 0.4 for i in range(2)], 0),
    "all other neurons cold": lambda dense: ([0, 0], [1.0 if i == dense else 0.0 for i in range(2)], MAIN_MEMORY),
    "all on the GPU": lambda _: ([0, 0], [1.0, 1.0], 0),
}


@pytest.mark.parametrize("name", PLANS)
def test_divided(tiny: TinyModel, dense: int, tmp_path: Path, name: str) -> None:
    file = mixed(tiny, dense, turned=False)
    placement = Placement(plan_of(file, *PLANS[name](dense)), ("cpu",))
    whole, engine = (
        Engine.load(file.open(tmp_path), EngineOptions(**OPTIONS), placement=where) for where in (None, placement)
    )
    check_logits(feed(engine), wanted_logits(tiny, dense))
    feed(whole)
    np.testing.assert_array_equal(engine.stats.counts, whole.stats.counts)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_dense_layer_of_rows_is_divided(tiny: TinyModel, dense: int, tmp_path: Path, share: float) -> None:
    file = mixed(tiny, dense, turned=True)
    placement = Placement(plan_of(file, [0, 0], [share, share], 0), ("cpu",))
    engine = Engine.load(file.open(tmp_path), EngineOptions(**OPTIONS), placement=placement)
    check_logits(feed(engine), wanted_logits(tiny, dense))


def test_a_directory_does_the_same(tiny: TinyModel, dense: int, tmp_path: Path) -> None:
    """The dense layer's down matrix stays as it lies in the file."""
    predictors = Predictors.of(predictors_but(tiny, dense))
    gguf = tiny.file.open(tmp_path)
    model = load_model(gguf, predictors)
    turned = [layer.ffn.neurons.transposed for layer in model.layers]
    assert turned == [layer != dense for layer in range(2)]
    check_logits(feed(tiny.file.engine(tmp_path, predictors)), wanted_logits(tiny, dense))


def test_every_neuron_is_recorded(tiny: TinyModel, dense: int, tmp_path: Path) -> None:
    plain, some = tiny.file.engine(tmp_path), mixed(tiny, dense, turned=False).engine(tmp_path)
    seen: list[list[np.ndarray]] = [[], []]
    for engine, kept in zip((plain, some), seen, strict=True):
        engine.record(PROMPT, lambda _layer, _x, values, kept=kept: kept.append(values.copy()))
    for wanted, found in zip(*seen, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_every_neuron_active(tiny: TinyModel, dense: int, tmp_path: Path) -> None:
    every = mixed(tiny, dense, turned=False).engine(tmp_path, all_active=True)
    check_logits(feed(every), tiny.reference)
