"""Models divided by a plan, the GPU's part rehearsed on the CPU, against the same models wholly in main memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.placement import MAIN_MEMORY, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.runtime.device import cold_stream
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES, waits_of
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, RELU_CASES, TinyModel, tiny_model


@pytest.fixture(scope="module", params=RELU_CASES)
def relu(request: pytest.FixtureRequest) -> TinyModel:
    return tiny_model(request.param)


def open_engine(
    model: ModelFile, folder: Path, plan: Plan | None, stream_from: int | None = None, **options: object
) -> Engine:
    wanted = {"n_ctx": 64, "n_threads": 2, "type_k": "f32", "type_v": "f32"} | options
    placement = None if plan is None else Placement(plan, DEVICES, stream_from=stream_from)
    return Engine.load(model.open(folder), EngineOptions(**wanted), placement=placement)  # type: ignore[arg-type]  # any option


def feed(engine: Engine) -> np.ndarray:
    """Logits of the whole prompt: a batch with all its logits, a batch with its last, and token by token."""
    first = engine.logits(PROMPT[:6])
    second = engine.prefill(PROMPT[6:9])[None]
    return np.concatenate([first, second, np.stack([engine.decode(token) for token in PROMPT[9:]])])


def greedy(engine: Engine, count: int = 20) -> list[int]:
    engine.reset()
    token = int(engine.prefill(PROMPT[:5]).argmax())
    found = [token]
    for _ in range(count):
        token = int(engine.decode(token).argmax())
        found.append(token)
    return found


def assert_same(model: ModelFile, folder: Path, plan: Plan, **options: object) -> Engine:
    """The divided model says what the undivided one says. The divided engine."""
    whole, divided = (open_engine(model, folder, one, **options) for one in (None, plan))
    wanted = feed(whole)
    check_logits(feed(divided), wanted)
    assert wanted.std() > 0.5
    np.testing.assert_array_equal(divided.stats.counts, whole.stats.counts)
    assert [layer.active for layer in divided.neurons()] == [layer.active for layer in whole.neurons()]
    assert greedy(divided) == greedy(whole)
    return divided


HALF = 0.5
PLANS = {
    "no neuron hot": ([0, 0], [0, 0], 0),
    "some hot": ([0, 0], [0.3, 0.7], 0),
    "all hot": ([0, 0], [1, 1], 0),
    "all and some": ([0, 0], [1, HALF], MAIN_MEMORY),
    "first layer in main memory": ([MAIN_MEMORY, 0], [0, HALF], 0),
    "last layer in main memory": ([0, MAIN_MEMORY], [HALF, 0], MAIN_MEMORY),
    "head alone": ([MAIN_MEMORY, MAIN_MEMORY], [0, 0], 0),
    "two devices": ([0, 1], [HALF, HALF], 1),
    "two devices, head on the first": ([0, 1], [1, 0.2], 0),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_plan(relu: TinyModel, tmp_path: Path, name: str) -> None:
    model = relu.file.first_layers(2).sparsified(random_predictors(relu)[:2])
    assert_same(model, tmp_path, plan_of(model, *PLANS[name]))


@pytest.mark.parametrize("seed", range(3))
def test_other_hot_sets(tmp_path: Path, seed: int) -> None:
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])
    assert_same(model, tmp_path, plan_of(model, [0, 0], [0.1, 0.9], 0, seed))


@pytest.mark.parametrize("case", ["llama", "llama-biases", "falcon-7b", "opt", "qwen3"])
@pytest.mark.parametrize("output", [0, MAIN_MEMORY])
def test_dense_models_by_whole_layers(tmp_path: Path, case: str, output: int) -> None:
    model = tiny_model(case).file.first_layers(2)
    assert_same(model, tmp_path, plan_of(model, [MAIN_MEMORY, 0], [0, 1], output))


@pytest.mark.parametrize("all_active", [False, True])
def test_cold_neurons_that_pass_through_the_gpu(
    relu: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_active: bool
) -> None:
    monkeypatch.setattr(cold_stream, "STREAM_BYTES", 16 << 10)  # several chunks
    model = relu.file.first_layers(2).sparsified(random_predictors(relu)[:2])
    plan = plan_of(model, [0, 0], [0.3, 0], 0)
    assert_same(model, tmp_path, plan, stream_from=3, all_active=all_active)


def test_every_neuron_active(tmp_path: Path) -> None:
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])
    divided = assert_same(model, tmp_path, plan_of(model, [0, 0], [0.5, 0.2], 0), all_active=True)
    assert divided.stats.mean_predicted == 1.0


@pytest.fixture(scope="module")
def quantised() -> ModelFile:
    tiny = tiny_model("llama-relu")
    return tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2]).stored_as(GGMLType.Q8_0)


@pytest.mark.parametrize("all_active", [False, True])
def test_rows_as_in_the_file(quantised: ModelFile, tmp_path: Path, all_active: bool) -> None:
    plan = plan_of(quantised, [0, 0], [0.5, 0.2], 0)
    repacked, as_is = (
        feed(open_engine(quantised, tmp_path, plan, repack=repack, all_active=all_active)) for repack in (True, False)
    )
    np.testing.assert_allclose(as_is, repacked, rtol=0, atol=1e-3)


def test_quantised_models(quantised: ModelFile, tmp_path: Path) -> None:
    """On a GPU inputs are not rounded to 8 bits: a model that is all there computes as the plain twin does."""
    exact = feed(open_engine(quantised, tmp_path, None, reference=True))
    check_logits(feed(open_engine(quantised, tmp_path, plan_of(quantised, [0, 0], [1, 1], 0))), exact)
    whole, divided = (
        np.abs(feed(open_engine(quantised, tmp_path, plan)) - exact).mean()
        for plan in (None, plan_of(quantised, [0, 0], [0.5, 0.2], 0))
    )
    assert 0 < divided < whole


def test_one_wait_a_divided_layer_and_none_for_others(tmp_path: Path) -> None:
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])
    for shares, waits in (([1.0, 1.0], 0), ([1.0, 0.5], 1), ([0.5, 0.0], 2)):
        engine = open_engine(model, tmp_path, plan_of(model, [0, 0], shares, 0))
        engine.prefill(PROMPT[:5])
        before = waits_of(engine)
        engine.decode(PROMPT[5])
        assert waits_of(engine) - before == waits + 1  # one for the logits


@pytest.mark.parametrize("case", ["llama", "falcon-7b", "opt"])
def test_shifting_the_context(tmp_path: Path, case: str) -> None:
    tiny = tiny_model(case)
    model = tiny.file.first_layers(2)
    plan = plan_of(model, [0, 0], [1, 1], 0)
    found = []
    for one in (None, plan):
        engine = open_engine(model, tmp_path, one)
        engine.prefill(PROMPT)
        engine.shift(2, 5)
        found.append(engine.decode(7))
    check_logits(found[1], found[0])


def test_cache_types(tmp_path: Path) -> None:
    tiny = tiny_model("qwen3")  # its heads have 32 dimensions
    model = tiny.file.first_layers(2)
    plan = plan_of(model, [0, 0], [1, 1], 0)
    exact = feed(open_engine(model, tmp_path, plan))
    for kind, tolerance in (("f16", 0.01), ("q8_0", 0.1)):
        found = feed(open_engine(model, tmp_path, plan, type_k=kind, type_v=kind))
        assert 0 < np.abs(found - exact).max() < tolerance * exact.std()


def halve(layer: int, values: np.ndarray) -> None:
    values[:, layer::2] = 0


@pytest.mark.parametrize("case", ["llama", "falcon-7b-relu"])
@pytest.mark.parametrize("sparse", [False, True])
def test_recording(tmp_path: Path, case: str, sparse: bool) -> None:
    tiny = tiny_model(case)
    model = tiny.file.first_layers(2)
    if sparse:
        model = model.sparsified(random_predictors(tiny)[:2])
    seen: list[list[np.ndarray]] = []
    for devices in (None, [MAIN_MEMORY, 0], [0, MAIN_MEMORY], [0, 1]):
        plan = None if devices is None else plan_of(model, devices, [1, 1], 0)
        found: list[np.ndarray] = []
        engine = open_engine(model, tmp_path, plan, n_batch=9)
        engine.record(
            PROMPT[:19], lambda layer, x, y, found=found: found.extend((np.full(1, layer), x.copy(), y.copy()))
        )
        found.append(engine.logits(PROMPT[:19], halve))
        seen.append(found)
    for other in seen[1:]:
        for ours, theirs in zip(other, seen[0], strict=True):
            check_logits(ours, theirs)


def test_plans_that_do_not_fit(tmp_path: Path) -> None:
    model = tiny_model("llama").file.first_layers(2)
    for plan, said in (
        (plan_of(model, [0, 0], [0.5, 1], 0), "layer 0, whose down matrix is not transposed"),
        (plan_of(model, [0, 0, 0], [1, 1, 1], 0), "not for this model: it places 3 layers"),
    ):
        with pytest.raises(PowerInferError, match=said):
            open_engine(model, tmp_path, plan)


def test_a_divided_layer_shows_nothing(tmp_path: Path) -> None:
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])
    engine = open_engine(model, tmp_path, plan_of(model, [0, 0], [1, 0.5], 0))
    with pytest.raises(PowerInferError, match="divided"):
        engine.record(PROMPT[:5], lambda *_: None)


def test_same_output_for_any_number_of_threads(tmp_path: Path) -> None:
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])
    engine = open_engine(model, tmp_path, plan_of(model, [0, MAIN_MEMORY], [0.5, 0], 0), n_threads=1)
    first = feed(engine)
    for threads in (2, 3):
        engine.reset()
        engine.use_threads(threads)
        np.testing.assert_array_equal(feed(engine), first)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run again by the test below")
def test_triton_kernels(tmp_path: Path) -> None:
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(1).sparsified(random_predictors(tiny)[:1])
    found = []
    for plan in (None, plan_of(model, [0], [0.5], 0)):
        engine = open_engine(model, tmp_path, plan, n_ctx=8)
        found.append(np.stack([engine.prefill(PROMPT[:2]), engine.decode(PROMPT[2])]))
    check_logits(found[1], found[0])


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is it")
def test_triton_kernels_interpreted() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "test_triton_kernels"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
