"""Predictors from elsewhere: a dense model computes what they let through, whatever its activation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import GGMLType, GGUFFile, Tensor
from powerinfer_cli.gguf_io import made as made_file
from powerinfer_cli.gguf_io.encoders import Fit
from powerinfer_cli.model import Predictors, load_model, load_predictors
from powerinfer_cli.placement import ActivationStatistics, LayerPlacement, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.families import tiny_family
from tests.helpers.kernels.sparse_reference import masked_logits, predictor_mask, random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.predictor_files import everything, save_predictors
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, TinyModel, reference_logits, tiny_model

SOURCE = {"falcon": "input"}  # what a predictor looks at; "attended" for the other architectures
VARIABLE = "LLAMA_SPARSE_PRED_THRESHOLD"
CASES = ["llama", "llama-biases", "qwen2", "falcon-7b", "falcon-40b", "opt", "bamboo", "llama-relu"]


@pytest.fixture(params=[False, True], ids=["kernels", "reference"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"reference": request.param}


@pytest.fixture
def llama() -> TinyModel:
    return tiny_model("llama")


def feed(engine: Engine, ids: list[int] = PROMPT, n_prompt: int = 9) -> np.ndarray:
    """Logits of all ids, the first part as a batch, the rest token by token."""
    return np.concatenate([engine.logits(ids[:n_prompt]), np.stack([engine.decode(t) for t in ids[n_prompt:]])])


def test_a_predictor_that_lets_everything_through_changes_nothing(
    tiny: TinyModel, gguf: GGUFFile, options: dict[str, Any]
) -> None:
    predictors = everything(random_predictors(tiny))
    exact = {"n_ctx": 64, "n_threads": 2, "type_k": "f32", "type_v": "f32"}
    engine = Engine.load(gguf, EngineOptions(**exact, **options), predictors=predictors)
    check_logits(feed(engine), tiny.reference)
    assert engine.stats.mean_predicted == 1.0
    relu = engine.config.activation == "relu"
    assert (engine.stats.mean_active == 1.0) != relu


@pytest.mark.parametrize("case", CASES)
def test_predicted_neurons_alone_count(tmp_path: Path, case: str, options: dict[str, Any]) -> None:
    tiny = tiny_model(case)
    predictors = random_predictors(tiny)
    source = SOURCE.get(tiny.file.arch, "attended")
    wanted = masked_logits(tiny, PROMPT, predictor_mask(predictors, 0.1), source)
    engine = tiny.file.engine(tmp_path, Predictors.of(predictors, 0.1), **options)
    check_logits(feed(engine, n_prompt=14), wanted)
    assert 0.2 < (engine.stats.mean_predicted or 0) < 0.8
    assert np.abs(wanted - tiny.reference).max() > 0.1


@pytest.mark.parametrize("case", ["llama", "falcon-7b"])
def test_a_sparse_file_that_names_its_activation(tmp_path: Path, case: str, options: dict[str, Any]) -> None:
    """What --merge writes computes the same as the dense model with the predictors beside it."""
    tiny = tiny_model(case)
    predictors = random_predictors(tiny)
    merged = tiny.file.sparsified(predictors, 0.1)
    activation = load_model(tiny.file.open(tmp_path)).config.activation
    assert activation != "relu"
    merged = replace(merged, metadata={**merged.metadata, "powerinfer.activation": str(activation)})
    found = feed(merged.engine(tmp_path, **options))
    wanted = masked_logits(tiny, PROMPT, predictor_mask(predictors, 0.1), SOURCE.get(tiny.file.arch, "attended"))
    check_logits(found, wanted)


def test_a_sparse_file_whose_activation_has_numbers(tmp_path: Path, options: dict[str, Any]) -> None:
    """xIELU's are of the file; predictors that let everything through change nothing."""
    family = tiny_family("apertus")
    n_ff, n_embd = family.file.tensors["blk.0.ffn_up.weight"].shape
    fc1, fc2 = np.zeros((8, n_embd), np.float32), np.zeros((n_ff, 8), np.float32)
    sparse = family.file.sparsified([(fc1, fc2)] * family.file.n_layer, 0.0)
    engine = sparse.engine(tmp_path, **options)
    check_logits(feed(engine), reference_logits(family.torch_model, PROMPT))
    assert engine.stats.mean_active == engine.stats.mean_predicted == 1.0


def test_predictors_beside_a_sparse_file_replace_its_own(tmp_path: Path, options: dict[str, Any]) -> None:
    tiny = tiny_model("llama-relu")
    others = random_predictors(tiny, (21, 4))
    wanted = masked_logits(tiny, PROMPT, predictor_mask(others, -0.1), "attended")
    engine = tiny.file.sparsified(random_predictors(tiny), 0.3).engine(tmp_path, Predictors.of(others, -0.1), **options)
    check_logits(feed(engine), wanted)


def exact_predictors(sparse: ModelFile) -> Predictors:
    found = [[sparse.tensors[f"blk.{i}.{name}.weight"] for name in ("fc1", "fc2")] for i in range(sparse.n_layer)]
    return Predictors.of([(fc1, fc2) for fc1, fc2 in found])


def test_an_exact_predictor_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    sparse, dense = exact_sparse(seed=3)
    ids = [token % 80 for token in PROMPT]
    wanted = dense.engine(tmp_path).logits(ids)
    engine = dense.engine(tmp_path, exact_predictors(sparse), **options)
    check_logits(feed(engine, ids), wanted)
    assert engine.stats.mean_predicted == pytest.approx(engine.stats.mean_active, rel=1e-3)
    assert 0.02 < (engine.stats.mean_active or 0) < 0.5


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.BF16, GGMLType.F16])
def test_stored_types(tmp_path: Path, kind: GGMLType, repack: bool) -> None:
    """The kernels against the plain twin on the same weights: near it where inputs are rounded, else equal."""
    dense = exact_sparse(n_ff=192)[1].stored_as(kind)
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.standard_normal(s).astype(np.float32) for s in ((32, 64), (192, 32))) for _ in range(3)]
    predictors = everything(pairs)  # type: ignore[arg-type]  # near the threshold, rounding would decide
    ids = [token % 80 for token in PROMPT]
    wanted = feed(dense.engine(tmp_path, predictors, reference=True), ids)
    found = feed(dense.engine(tmp_path, predictors, repack=repack), ids)
    plain = dense.engine(tmp_path, reference=True).logits(ids)
    assert np.abs(found - wanted).max() < (0.15 if kind is GGMLType.Q4_0 else 2e-3) * wanted.std()
    assert np.abs(wanted - plain).max() < 0.05 * wanted.std()  # what Q8_0 makes of the down matrix


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.F32])
@pytest.mark.parametrize(
    "changes", [{}, {"repack": False}, {"reference": True}, {"reference": True, "resident": False}]
)
def test_each_down_matrix_is_turned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: GGMLType, changes: dict[str, Any]
) -> None:
    turned: list[str] = []
    turn = made_file._transpose

    def count(tensor: Tensor, to: GGMLType, fit: Fit | None) -> np.ndarray:
        turned.append(tensor.name)
        return turn(tensor, to, fit)

    monkeypatch.setattr(made_file, "_transpose", count)
    dense = exact_sparse(n_ff=192)[1].stored_as(kind)
    pairs = [(np.ones((4, 64), np.float32), np.ones((192, 4), np.float32))] * dense.n_layer
    dense.engine(tmp_path, Predictors.of(pairs), **changes).prefill([1, 2, 3])
    assert turned == [f"blk.{layer}.ffn_down.weight" for layer in range(dense.n_layer)]


@pytest.mark.parametrize("text", ["0.4", "-inf"])
def test_the_environments_threshold_counts_most(
    llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    predictors = random_predictors(llama)
    monkeypatch.setenv(VARIABLE, text)
    wanted = masked_logits(llama, PROMPT, predictor_mask(predictors, float(text)), "attended")
    check_logits(feed(llama.file.engine(tmp_path, Predictors.of(predictors, 0.1))), wanted)


def test_a_directory(llama: TinyModel, tmp_path: Path) -> None:
    pairs = random_predictors(llama)
    folder = save_predictors(tmp_path / "predictors", pairs, 0.2)
    wanted = masked_logits(llama, PROMPT, predictor_mask(pairs, 0.2), "attended")
    engine = llama.file.engine(tmp_path, load_predictors(folder, 64, [112] * 2))
    check_logits(feed(engine), wanted)


def test_statistics_settle_what_they_can(llama: TinyModel, tmp_path: Path, options: dict[str, Any]) -> None:
    pairs = random_predictors(llama)
    ask = predictor_mask(pairs, 0.0)

    def settled(layer: int, x: torch.Tensor) -> torch.Tensor:
        mask = ask(layer, x)
        mask[:, :40], mask[:, 40:70] = True, False
        return mask

    counts = np.full(112, 100.0)
    counts[:40], counts[40:70] = 50_000, 0
    exact = {"n_ctx": 64, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    engine = Engine.load(
        llama.file.open(tmp_path),
        EngineOptions(**exact, **options),
        ActivationStatistics((counts, counts)),
        predictors=Predictors.of(pairs),
    )
    check_logits(feed(engine), masked_logits(llama, PROMPT, settled, "attended"))


@pytest.mark.parametrize("case", ["llama", "falcon-7b"])
@pytest.mark.parametrize("repack", [True, False])
def test_a_model_divided_between_devices(tmp_path: Path, case: str, repack: bool) -> None:
    tiny = tiny_model(case)
    pairs = random_predictors(tiny)
    wanted = masked_logits(tiny, PROMPT, predictor_mask(pairs, 0.1), SOURCE.get(tiny.file.arch, "attended"))
    n_ff = len(pairs[0][1])
    hot = np.arange(0, n_ff, 3, dtype=np.int32)
    plan = Plan((1 << 30,), (LayerPlacement(0, hot), LayerPlacement(0, hot[1:] - 1)), 0, "greedy", "")
    exact = {"n_ctx": 64, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    notes: list[str] = []
    engine = Engine.load(
        tiny.file.open(tmp_path),
        EngineOptions(repack=repack, **exact),
        events=LoadEvents(note=notes.append),
        placement=Placement(plan, ("cpu",), stream_from=2),
        predictors=Predictors.of(pairs, 0.1),
    )
    assert ["rows that can be streamed" in note for note in notes] == [True]
    check_logits(feed(engine), wanted)


def test_recording_sees_every_neuron(llama: TinyModel, tmp_path: Path, options: dict[str, Any]) -> None:
    def record(engine: Engine) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        engine.record(PROMPT, lambda _layer, residual, values: found.extend([residual.copy(), values.copy()]))
        return found

    wanted = record(llama.file.engine(tmp_path, **options))
    found = record(llama.file.engine(tmp_path, Predictors.of(random_predictors(llama)), **options))
    for ours, theirs in zip(found, wanted, strict=True):
        check_logits(ours, theirs)


def test_all_active_asks_no_predictor(llama: TinyModel, tmp_path: Path, options: dict[str, Any]) -> None:
    predictors = Predictors.of(random_predictors(llama), 1e9)
    engine = llama.file.engine(tmp_path, predictors, all_active=True, **options)
    check_logits(feed(engine), llama.reference)
