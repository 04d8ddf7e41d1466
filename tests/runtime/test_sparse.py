"""PowerInfer models: what the predictor lets through is computed, what it does not is not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import Engine
from tests.helpers.kernels.sparse_reference import SOURCES, masked_logits, predictor_mask, random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, RELU_CASES, TinyModel, reference_logits, tiny_model

SOURCE = {"falcon": "input"}  # what a predictor looks at; "attended" for the other architectures
VARIABLE = "LLAMA_SPARSE_PRED_THRESHOLD"


@pytest.fixture(scope="module", params=RELU_CASES)
def relu(request: pytest.FixtureRequest) -> TinyModel:
    return tiny_model(request.param)


def feed(engine: Engine, n_prompt: int = 9) -> np.ndarray:
    """Logits of the whole prompt, the first part as a batch, the rest token by token."""
    return np.concatenate([engine.logits(PROMPT[:n_prompt]), np.stack([engine.decode(t) for t in PROMPT[n_prompt:]])])


def known_set(tiny: TinyModel) -> tuple[list[tuple[np.ndarray, np.ndarray]], torch.Tensor]:
    """Predictors that let the same third of the neurons through whatever they look at, and that set [n_ff]."""
    n_ff, n_embd = tiny.file.tensors["blk.0.ffn_up.weight"].shape
    active = np.arange(n_ff) % 3 == 1
    direction = np.random.default_rng(3).standard_normal((1, n_embd)).astype(np.float32)
    fc1 = np.concatenate([direction, -direction])  # relu(a) + relu(-a) is |a|
    fc2 = np.repeat(np.where(active, 1.0, -1.0)[:, None], 2, axis=1).astype(np.float32)
    return [(fc1, fc2)] * tiny.file.n_layer, torch.from_numpy(active)


def test_an_all_active_predictor_changes_nothing(relu: TinyModel, tmp_path: Path) -> None:
    predictors = [(fc1, np.zeros_like(fc2)) for fc1, fc2 in random_predictors(relu)]
    engine = relu.file.sparsified(predictors).engine(tmp_path)  # every logit is 0, and so is the threshold
    check_logits(feed(engine), relu.reference)
    assert engine.stats.mean_predicted == 1.0


@pytest.mark.parametrize("n_batch", [1, 4, 512])
def test_predicted_neurons_alone_count(relu: TinyModel, tmp_path: Path, n_batch: int) -> None:
    predictors = random_predictors(relu)
    source = SOURCE.get(relu.file.arch, "attended")
    wanted = masked_logits(relu, PROMPT, predictor_mask(predictors, 0.0), source)
    engine = relu.file.sparsified(predictors).engine(tmp_path, n_batch=n_batch)
    check_logits(feed(engine, 14), wanted)
    assert 0.2 < (engine.stats.mean_predicted or 0) < 0.8
    assert np.abs(wanted - relu.reference).max() > 0.1


def test_a_predictor_that_looked_elsewhere_would_be_noticed(relu: TinyModel) -> None:
    mask = predictor_mask(random_predictors(relu), 0.0)
    own = SOURCE.get(relu.file.arch, "attended")
    wanted = masked_logits(relu, PROMPT, mask, own)
    for other in set(SOURCES) - {own}:
        assert np.abs(masked_logits(relu, PROMPT, mask, other) - wanted).max() > 0.1, other


def test_a_known_set_of_neurons(relu: TinyModel, tmp_path: Path) -> None:
    predictors, active = known_set(relu)
    wanted = masked_logits(relu, PROMPT, lambda _layer, x: active.expand(len(x), -1), "input")
    check_logits(feed(relu.file.sparsified(predictors).engine(tmp_path)), wanted)


def test_rows_of_other_neurons_are_not_used(relu: TinyModel, tmp_path: Path) -> None:
    predictors, active = known_set(relu)
    sparse = relu.file.sparsified(predictors)
    poisoned = {
        name: np.where(active.numpy()[:, None], data, np.float32(np.nan))
        for name, data in sparse.tensors.items()
        if name.endswith(("ffn_gate.weight", "ffn_up.weight", "ffn_down_t.weight"))
    }
    assert np.isnan(poisoned["blk.1.ffn_down_t.weight"]).any()
    clean = feed(sparse.engine(tmp_path))
    assert np.isfinite(clean).all()
    np.testing.assert_array_equal(feed(sparse.with_tensors(poisoned).engine(tmp_path)), clean)


def test_mean_active_counts_neurons_that_fired(relu: TinyModel, tmp_path: Path) -> None:
    fired: list[float] = []
    first = {"llama": "gate_proj", "bamboo": "gate_proj", "falcon": "dense_h_to_4h", "opt": "fc1"}[relu.file.arch]
    hooks = [
        module.register_forward_hook(lambda _module, _args, out: fired.append((out > 0).float().mean().item()))
        for name, module in relu.torch_model.named_modules()
        if name.endswith(first)
    ]
    reference_logits(relu.torch_model, PROMPT)
    for hook in hooks:
        hook.remove()
    predictors = [(fc1, np.zeros_like(fc2)) for fc1, fc2 in random_predictors(relu)]
    engine = relu.file.sparsified(predictors).engine(tmp_path)
    feed(engine)
    assert len(fired) == relu.file.n_layer
    assert engine.stats.mean_active == pytest.approx(np.mean(fired), abs=1e-3)
    engine.stats.reset()
    assert engine.stats.mean_active is None


def test_a_dense_model_has_no_sparsity(relu: TinyModel, tmp_path: Path) -> None:
    engine = relu.file.engine(tmp_path)
    feed(engine)
    assert engine.stats.mean_active is None
    assert engine.stats.mean_predicted is None


@pytest.fixture
def llama() -> TinyModel:
    return tiny_model("llama-relu")


def with_threshold(llama: TinyModel, threshold: float | None) -> tuple[ModelFile, np.ndarray]:
    predictors = random_predictors(llama)
    wanted = masked_logits(llama, PROMPT, predictor_mask(predictors, threshold or 0.0), "attended")
    return llama.file.sparsified(predictors, threshold), wanted


@pytest.mark.parametrize("threshold", [None, -0.25, 0.4])
def test_threshold_from_the_file(llama: TinyModel, tmp_path: Path, threshold: float | None) -> None:
    sparse, wanted = with_threshold(llama, threshold)
    check_logits(feed(sparse.engine(tmp_path)), wanted)


@pytest.mark.parametrize(("text", "value"), [("0.4", 0.4), (" -2.5e-1 ", -0.25), ("-inf", -np.inf), ("inf", np.inf)])
def test_threshold_from_the_environment(
    llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: float
) -> None:
    wanted = with_threshold(llama, value)[1]
    monkeypatch.setenv(VARIABLE, text)
    check_logits(feed(with_threshold(llama, 0.1)[0].engine(tmp_path)), wanted)


def test_an_empty_variable_counts_as_none(llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, wanted = with_threshold(llama, 0.4)
    monkeypatch.setenv(VARIABLE, "")
    check_logits(feed(sparse.engine(tmp_path)), wanted)


@pytest.mark.parametrize("text", ["much", "0,4", "nan"])
def test_a_bad_threshold_is_one_line(
    llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(PowerInferError, match=rf"\A.*{VARIABLE}.*{text}.*\Z"):
        with_threshold(llama, 0.4)[0].engine(tmp_path)


@pytest.mark.parametrize("name", ["ffn_down_t.bias", "ffn_down.bias"])
def test_the_down_bias_has_two_names(tmp_path: Path, name: str) -> None:
    opt = tiny_model("opt")
    predictors = [(fc1, np.zeros_like(fc2)) for fc1, fc2 in random_predictors(opt)]
    check_logits(feed(opt.file.sparsified(predictors, bias_name=name).engine(tmp_path)), opt.reference)
