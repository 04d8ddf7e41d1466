"""Predictor directories: what trainers write is read; the rest is refused, in one line that names the file."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, GGUFFile
from powerinfer_cli.model import Predictors, load_model, load_predictors, with_predictors
from powerinfer_cli.model import predictors as predictors_file
from powerinfer_cli.model.blocks import Predicted
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.kernels.sparse_reference import Predictor, random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.predictor_files import save_predictors
from tests.helpers.tiny_models import tiny_model

N_LAYER, N_EMBD, N_FF = 2, 6, 10


def pairs(n_layer: int = N_LAYER, rank: int = 3) -> list[Predictor]:
    rng = np.random.default_rng(0)
    shapes = [((rank + layer, N_EMBD), (N_FF, rank + layer)) for layer in range(n_layer)]
    return [tuple(rng.standard_normal(shape).astype(np.float32) for shape in pair) for pair in shapes]  # type: ignore[misc]


def load(folder: Path, n_layer: int = N_LAYER) -> Predictors:
    return load_predictors(folder, N_EMBD, [N_FF] * n_layer)


def refusal(folder: Path, n_layer: int = N_LAYER) -> str:
    with pytest.raises(PowerInferError) as caught:
        load(folder, n_layer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(loaded: Predictors, wanted: list[Predictor]) -> None:
    assert len(loaded.layers) == len(wanted)
    for layer, (fc1, fc2) in zip(loaded.layers, wanted, strict=True):
        assert layer is not None
        np.testing.assert_array_equal(layer.fc1.to_float32(), fc1)
        np.testing.assert_array_equal(layer.fc2.to_float32(), fc2)


def test_layers_are_keyed_by_number(tmp_path: Path) -> None:
    given = pairs(12)
    loaded = load(save_predictors(tmp_path / "p", given, 0.25), 12)
    check(loaded, given)
    assert loaded.threshold == 0.25


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float32, GGMLType.F32),
        (torch.float16, GGMLType.F16),
        (torch.bfloat16, GGMLType.BF16),
        (torch.float64, GGMLType.F32),
    ],
)
def test_float_types(tmp_path: Path, dtype: torch.dtype, kind: GGMLType) -> None:
    given = pairs()
    loaded = load(save_predictors(tmp_path / "p", given, dtype=dtype))
    assert loaded.layers[0] is not None
    assert loaded.layers[0].fc2.type is kind
    check(loaded, [tuple(torch.from_numpy(m).to(dtype).float().numpy() for m in pair) for pair in given])  # type: ignore[misc]


def test_numbers_that_do_not_lie_in_a_row_and_parameters(tmp_path: Path) -> None:
    given = pairs()
    folder = save_predictors(tmp_path / "p", given)
    fc1, fc2 = map(torch.from_numpy, given[1])
    matrices = {"fc1.weight": fc1.T.contiguous().T, "fc2.weight": torch.nn.Parameter(fc2)}
    torch.save(matrices, folder / "model_1.pt")
    check(load(folder), given)


def test_what_is_read_outlives_its_file(tmp_path: Path) -> None:
    given = pairs()
    folder = save_predictors(tmp_path / "p", given)
    loaded = load(folder)
    for path in folder.iterdir():
        path.unlink()
    check(loaded, given)


@pytest.mark.parametrize(
    ("text", "threshold"),
    [(None, 0.0), ("{}", 0.0), ('{"sparse_threshold": null, "x": 1}', 0.0), ('{"sparse_threshold": -2}', -2.0)],
)
def test_settings(tmp_path: Path, text: str | None, threshold: float) -> None:
    folder = save_predictors(tmp_path / "p", pairs(), None)
    if text is not None:
        (folder / "config.json").write_text(text)
    assert load(folder).threshold == threshold


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[1]", b"{", b'{"sparse_threshold": "0"}', b'{"sparse_threshold": NaN}', b'{"sparse_threshold": true}'),
        *(b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20) + b"{}"),
    ],
    ids=lambda content: str(content[:30]),
)
def test_settings_that_are_none(tmp_path: Path, content: bytes) -> None:
    folder = save_predictors(tmp_path / "p", pairs())
    (folder / "config.json").write_bytes(content)
    assert "config.json: " in refusal(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json: cannot read" in refusal(folder)


def test_layers_of_another_model(tmp_path: Path) -> None:
    folder = save_predictors(tmp_path / "p", pairs(3))
    assert "3 layers, but the model has 2" in refusal(folder)
    assert "model_3.pt is missing" in refusal(folder, 4)
    assert "nowhere: cannot read" in refusal(tmp_path / "nowhere")


def test_layers_that_run_dense_have_no_file(tmp_path: Path) -> None:
    given: list[Predictor | None] = [None, *pairs(4)[1:3], None]
    folder = save_predictors(tmp_path / "p", given, 0.5)
    loaded = load(folder, 4)
    assert [layer is None for layer in loaded.layers] == [True, False, False, True]
    assert loaded.dense_layers == (0, 3)
    assert loaded.threshold == 0.5
    assert "model_4.pt is missing" in refusal(folder, 5)
    assert "dense_layers" in refusal(folder, 3)
    (folder / "model_2.pt").unlink()
    assert "1 layers and 2 dense ones, but the model has 4 (model_2.pt is missing)" in refusal(folder, 4)
    save_predictors(folder, pairs(4), None)
    assert "model_0.pt: layer 0 is said to be dense" in refusal(folder, 4)


@pytest.mark.parametrize("text", ["3", "null", "[2]", "[-1]", "[0, 0]", "[true]", "[0.0]", '["0"]', '{"0": 1}'])
def test_dense_layers_that_cannot_be(tmp_path: Path, text: str) -> None:
    folder = save_predictors(tmp_path / "p", pairs(), None)
    (folder / "config.json").write_text(f'{{"dense_layers": {text}}}')
    assert "config.json: dense_layers must be a list of layers from 0 to 1" in refusal(folder)


class Bomb:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    folder, traces = save_predictors(tmp_path / "p", pairs()), [tmp_path / "bare", tmp_path / "zipped"]
    (folder / "model_1.pt").write_bytes(pickle.dumps(Bomb(traces[0])))
    assert "model_1.pt: not a saved predictor" in refusal(folder)
    torch.save(Bomb(traces[1]), folder / "model_1.pt")
    assert "model_1.pt: not a saved predictor" in refusal(folder)
    torch.save(torch.nn.Linear(3, 3), folder / "model_1.pt")
    assert "model_1.pt: not a saved predictor" in refusal(folder)
    assert not any(trace.exists() for trace in traces)


def content(**changes: Any) -> dict[str, Any]:
    return {"fc1.weight": torch.zeros(3, N_EMBD), "fc2.weight": torch.zeros(N_FF, 3)} | {
        name.replace("_", "."): value for name, value in changes.items()
    }


@pytest.mark.parametrize(
    "found",
    [
        content(fc1_weight=torch.zeros(3, N_EMBD + 1)),
        content(fc2_weight=torch.zeros(N_FF + 1, 3)),
        content(fc2_weight=torch.zeros(N_FF, 4)),
        content(fc1_weight=torch.zeros(0, N_EMBD), fc2_weight=torch.zeros(N_FF, 0)),
        content(fc1_weight=torch.zeros(1, 1).expand(50_000, N_EMBD), fc2_weight=torch.zeros(1, 1).expand(N_FF, 50_000)),
        content(fc1_weight=torch.zeros(3 * N_EMBD)),
        content(fc1_weight=torch.zeros(3, N_EMBD, dtype=torch.int32)),
        content(fc1_weight=torch.zeros(3, N_EMBD, dtype=torch.complex64)),
        content(fc1_weight=torch.zeros(3, N_EMBD).to_sparse()),
        content(fc1_weight=torch.zeros(3, N_EMBD, device="meta")),
        content(fc1_weight=[[0.0] * N_EMBD] * 3),
        content(fc1_weight=torch.full((3, N_EMBD), float("nan"))),
        content(fc2_weight=torch.full((N_FF, 3), float("inf"))),
        content(fc2_weight=torch.full((N_FF, 3), -1e5)),
        content(fc1_bias=torch.zeros(3)),
        {"fc1.weight": torch.zeros(3, N_EMBD)},
        [torch.zeros(3, N_EMBD), torch.zeros(N_FF, 3)],
        None,
    ],
    ids=lambda found: repr(found).replace("\n", "")[:60],
)
def test_what_is_no_predictor_of_this_model(tmp_path: Path, found: object) -> None:
    folder = save_predictors(tmp_path / "p", pairs())
    torch.save(found, folder / "model_1.pt")
    assert "model_1.pt: " in refusal(folder)


def test_one_bad_number_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors_file, "_CHECKED_AT_ONCE", 8)
    for place in range(N_FF):
        given = pairs()
        given[1][1][place, place % 4] = np.nan
        assert "model_1.pt: fc2.weight has numbers that are not finite" in refusal(
            save_predictors(tmp_path / "p", given)
        )


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a pickle", b"\x80\x04" * 50])
def test_damaged_files(tmp_path: Path, data: bytes) -> None:
    folder = save_predictors(tmp_path / "p", pairs())
    (folder / "model_1.pt").write_bytes(data)
    assert "model_1.pt: not a saved predictor" in refusal(folder)


def test_cut_short_anywhere(tmp_path: Path) -> None:
    folder = save_predictors(tmp_path / "p", pairs())
    whole = (folder / "model_1.pt").read_bytes()
    for size in range(0, len(whole) - 1, 97):
        (folder / "model_1.pt").write_bytes(whole[:size])
        assert "model_1.pt" in refusal(folder)


def test_what_would_inflate_or_fill_memory(tmp_path: Path) -> None:
    folder = save_predictors(tmp_path / "p", pairs())
    with zipfile.ZipFile(folder / "model_1.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "model_1.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert "model_1.pt: not a saved predictor" in refusal(folder)
    torch.save(content(), folder / "model_1.pt", _use_new_zipfile_serialization=False)
    assert "model_1.pt: not a saved predictor" in refusal(folder)
    with (folder / "model_1.pt").open("wb") as file:
        file.truncate(1 << 40)
    assert "model_1.pt: too large" in refusal(folder)
    (folder / "model_1.pt").unlink()
    (folder / "model_1.pt").mkdir()
    assert "model_1.pt: " in refusal(folder)


# --- with a model --------------------------------------------------------------------------------------------------


@pytest.fixture
def dense(llama: ModelFile, tmp_path: Path) -> GGUFFile:
    return llama.open(tmp_path)


def test_a_dense_model_becomes_sparse_and_keeps_its_activation(dense: GGUFFile) -> None:
    given = random_predictors(tiny_model("llama"))
    before, model = load_model(dense).config, load_model(dense, Predictors.of(given, 0.5))
    config = model.config
    assert (config.sparse, config.sparse_threshold, config.activation) == (True, 0.5, before.activation)
    assert (before.sparse, config.n_ff) == (False, before.n_ff)
    for index, layer in enumerate(model.layers):
        neurons, selection = layer.ffn.neurons, layer.ffn.selection
        down = dense.tensors[f"blk.{index}.ffn_down.weight"].to_float32()
        assert neurons.transposed
        assert neurons.down.weight.name == f"blk.{index}.ffn_down_t.weight"
        np.testing.assert_array_equal(neurons.down.weight.to_float32(), down.T)
        assert isinstance(selection, Predicted)
        np.testing.assert_array_equal(selection.fc1.to_float32(), given[index][0])


def test_a_sparse_model_gets_other_predictors(sparse_llama: ModelFile, tmp_path: Path) -> None:
    gguf = sparse_llama.open(tmp_path)
    given = random_predictors(tiny_model("llama-relu"), (5, 6))
    model, plain = load_model(gguf, Predictors.of(given)), load_model(gguf)
    assert model.config.sparse
    for layer, old in zip(model.layers, plain.layers, strict=True):
        assert layer.ffn.neurons.down.weight is old.ffn.neurons.down.weight
    selection = model.layers[1].ffn.selection
    assert isinstance(selection, Predicted)
    np.testing.assert_array_equal(selection.fc2.to_float32(), given[1][1])


@pytest.mark.parametrize(
    ("stored", "down", "predictor"),
    [
        (GGMLType.F32, GGMLType.F32, GGMLType.F32),
        (GGMLType.F16, GGMLType.F16, GGMLType.F16),
        (GGMLType.BF16, GGMLType.BF16, GGMLType.F16),
        (GGMLType.Q8_0, GGMLType.Q8_0, GGMLType.Q8_0),
    ],
)
def test_types_fit_the_models_own(tmp_path: Path, stored: GGMLType, down: GGMLType, predictor: GGMLType) -> None:
    gguf = exact_sparse(n_ff=192)[1].stored_as(stored).open(tmp_path)
    rng = np.random.default_rng(0)
    given = [tuple(rng.standard_normal(s).astype(np.float32) for s in ((r, 64), (192, r))) for r in (32, 32, 7)]
    first, _, last = load_model(gguf, Predictors.of(given)).layers  # type: ignore[arg-type]
    asked, others = first.ffn.selection, last.ffn.selection
    assert isinstance(asked, Predicted)
    assert isinstance(others, Predicted)
    assert (first.ffn.neurons.down.weight.type, asked.fc1.type, asked.fc2.type) == (down, predictor, predictor)
    odd = GGMLType.F16 if predictor is GGMLType.Q8_0 else predictor  # 7 columns are no whole block
    assert others.fc2.type is odd


def test_predictors_of_another_model(dense: GGUFFile) -> None:
    model = load_model(dense)
    fc1, fc2 = random_predictors(tiny_model("llama"))[0]
    for wrong in ([(fc1, fc2)], [(fc1, fc2)] * 3, [(fc1[:, 1:], fc2)] * 2, [(fc1, fc2[1:])] * 2, [(fc1[1:], fc2)] * 2):
        with pytest.raises(PowerInferError, match="another model"):
            with_predictors(model, Predictors.of(wrong))


def test_nothing_but_dense_layers(dense: GGUFFile) -> None:
    """A directory may come to that; the model is then what it was."""
    before = load_model(dense)
    model = with_predictors(before, Predictors.of([None, None]))
    assert not model.config.sparse
    assert model.layers == before.layers


def test_a_directory_like_a_trainers(dense: GGUFFile, tmp_path: Path) -> None:
    config = load_model(dense).config
    folder = save_predictors(tmp_path / "p", random_predictors(tiny_model("llama")), 0.125)
    assert json.loads((folder / "config.json").read_text()) == {"sparse_threshold": 0.125}
    loaded = load_predictors(folder, config.n_embd, config.n_ff)
    assert with_predictors(load_model(dense), loaded).config.sparse_threshold == 0.125
