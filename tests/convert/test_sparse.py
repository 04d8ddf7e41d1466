"""ReLU checkpoints with predictors: PowerInfer files that run, and lie as `download` expects them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from powerinfer_cli.convert.checkpoint import open_checkpoint
from powerinfer_cli.convert.converting import Converted, convert_checkpoint, write_converted
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.hub.choice import Wish, choose
from powerinfer_cli.placement import find_statistics, load_statistics
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.predictor_files import save_predictors
from tests.helpers.tiny_models import PROMPT, reference_logits, tiny_model

OPTIONS = EngineOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32")
N_LAYER, N_FF, N_EMBD = 2, 112, 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with ReLU, and beside it predictors that are right of every neuron, and statistics."""
    model = tiny_model("llama-relu").torch_model
    save_checkpoint(model, tmp_path / "relu")
    pairs = []
    for layer in model.model.layers:
        gate = (layer.mlp.gate_proj.weight * layer.post_attention_layernorm.weight).detach().numpy()
        one = np.eye(N_EMBD, dtype=np.float32)
        pairs.append((np.concatenate([one, -one]), np.concatenate([gate, -gate], 1)))
    folder = save_predictors(tmp_path / "predictors", pairs)
    (folder / "activation").mkdir()
    for i in range(N_LAYER):
        torch.save(torch.arange(N_FF) + i, folder / "activation" / f"activation_{i}.pt")
    return tmp_path / "relu"


def _converted(folder: Path, predictors: str | None = "predictors", wanted: OutType = OutType.F32) -> Converted:
    beside = None if predictors is None else folder.parent / predictors
    return convert_checkpoint(open_checkpoint(folder), wanted, predictors=beside, vocabulary=False)


def _config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _logits(path: Path) -> tuple[np.ndarray, Engine]:
    engine = Engine.load(open_gguf(path), OPTIONS)
    return engine.logits(PROMPT), engine


def test_with_predictors_it_runs_sparse(folder: Path, tmp_path: Path) -> None:
    converted = _converted(folder)
    assert converted.file_name == "relu-F32.powerinfer.gguf"
    (tmp_path / "out").mkdir()
    (path,) = write_converted(converted, tmp_path / "out" / converted.file_name)
    assert path.read_bytes()[:4] == b"PWRI"
    found, engine = _logits(path)
    np.testing.assert_allclose(found, reference_logits(tiny_model("llama-relu").torch_model, PROMPT), atol=1e-4)
    assert engine.config.sparse
    with open_gguf(path) as gguf:
        assert gguf.tensors["blk.1.ffn_down_t.weight"].shape == (N_FF, N_EMBD)
        assert "blk.1.ffn_down.weight" not in gguf.tensors
        assert gguf.tensors["blk.0.fc1.weight"].shape == (2 * N_EMBD, N_EMBD)
    statistics = find_statistics(path)
    assert statistics is not None
    assert [list(counts)[:2] for counts in load_statistics(statistics, [N_FF] * N_LAYER).counts] == [[0, 1], [1, 2]]


def test_the_layout_is_what_download_fetches(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "repo"
    out.mkdir()
    write_converted(_converted(folder, wanted=OutType.F16), out / "tiny.powerinfer.gguf")
    write_converted(_converted(folder, None, OutType.F16), out / "tiny.gguf")
    sizes: dict[str, int | None] = {str(p.relative_to(out)): p.stat().st_size for p in out.rglob("*") if p.is_file()}
    chosen = choose("me/tiny", sizes, Wish())
    assert chosen.files == ("tiny.powerinfer.gguf", "activation/activation_0.pt", "activation/activation_1.pt")


def test_matrices_of_a_sparse_file_have_the_type_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    (path,) = write_converted(_converted(folder, wanted=OutType.Q8_0), tmp_path / "out.gguf")
    with open_gguf(path) as gguf:
        kinds = {name.split(".", 2)[2]: t.type for name, t in gguf.tensors.items() if name.startswith("blk.0.f")}
    assert kinds == {
        "ffn_norm.weight": GGMLType.F32,
        "ffn_gate.weight": GGMLType.Q8_0,
        "ffn_up.weight": GGMLType.Q8_0,
        "ffn_down_t.weight": GGMLType.Q8_0,
        "fc1.weight": GGMLType.Q8_0,
        "fc2.weight": GGMLType.Q8_0,
    }


def test_without_predictors_a_key_says_that_it_is_relu(folder: Path, tmp_path: Path) -> None:
    (path,) = write_converted(_converted(folder, None), tmp_path / "out.gguf")
    with open_gguf(path) as gguf:
        assert (gguf.sparse, gguf.get("llama.hidden_activation", str)) == (False, "relu")
    found, _ = _logits(path)
    np.testing.assert_allclose(found, reference_logits(tiny_model("llama-relu").torch_model, PROMPT), atol=1e-4)


def test_a_shifted_relu_is_a_bias_of_the_gate(folder: Path, tmp_path: Path) -> None:
    """relu(x - 0.1), against transformers' model with a bias of its own."""
    _config(folder, hidden_act="shiftrelu", hidden_act_param=0.1)
    (path,) = write_converted(_converted(folder, None), tmp_path / "out.gguf")
    model = tiny_model("llama-relu").torch_model
    hooks = [
        layer.mlp.gate_proj.register_forward_hook(lambda module, given, out: out - 0.1) for layer in model.model.layers
    ]
    try:
        expected = reference_logits(model, PROMPT)
    finally:
        for hook in hooks:
            hook.remove()
    np.testing.assert_allclose(_logits(path)[0], expected, atol=1e-4)


@pytest.mark.parametrize("predicted", [False, True])
def test_fatrelu_drops_what_is_not_above_its_threshold(folder: Path, tmp_path: Path, predicted: bool) -> None:
    """Against transformers' model whose ReLU is one; many of its neurons lie between 0 and the threshold."""
    _config(folder, hidden_act="fatrelu", hidden_act_param=0.05)
    predictors = "predictors" if predicted else None
    (path,) = write_converted(_converted(folder, predictors), tmp_path / "out.gguf")
    with open_gguf(path) as gguf:
        key = "powerinfer.activation" if predicted else "llama.hidden_activation"
        assert (gguf.sparse, gguf.get(key, str)) == (predicted, "fatrelu")
    model = tiny_model("llama-relu").torch_model
    mlps = [layer.mlp for layer in model.model.layers]
    was = [mlp.act_fn for mlp in mlps]
    for mlp in mlps:
        mlp.act_fn = torch.nn.Threshold(0.05, 0.0)
    try:
        expected = reference_logits(model, PROMPT)
    finally:
        for mlp, act in zip(mlps, was, strict=True):
            mlp.act_fn = act
    plain = reference_logits(model, PROMPT)
    assert np.abs(expected - plain).max() > 1e-2
    np.testing.assert_allclose(_logits(path)[0], expected, atol=1e-4)


def _silu(folder: Path) -> None:
    _config(folder, hidden_act="silu")


def _narrow(folder: Path) -> None:
    save_predictors(folder.parent / "predictors", [(np.ones((4, 32), np.float32), np.ones((N_FF, 4), np.float32))] * 2)


def _one(folder: Path) -> None:
    (folder.parent / "predictors" / "model_1.pt").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_silu, "neurons of silu are hardly ever 0"),
        (_narrow, "a predictor of another model"),
        (_one, "model_1.pt is missing"),
    ],
)
def test_predictors_that_do_not_fit(spoil: Any, words: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(PowerInferError, match=words):
        _converted(folder)


def test_a_layer_may_run_dense(folder: Path, tmp_path: Path) -> None:
    predictors = folder.parent / "predictors"
    (predictors / "model_0.pt").unlink()
    (predictors / "config.json").write_text('{"dense_layers": [0]}')
    (path,) = write_converted(_converted(folder), tmp_path / "out.gguf")
    np.testing.assert_allclose(
        _logits(path)[0], reference_logits(tiny_model("llama-relu").torch_model, PROMPT), atol=1e-4
    )
    with open_gguf(path) as gguf:
        assert {name for name in gguf.tensors if "down" in name} == {"blk.0.ffn_down.weight", "blk.1.ffn_down_t.weight"}


def test_halves_stay_halves(folder: Path, tmp_path: Path) -> None:
    """A transposed matrix keeps its bits."""
    weights = folder / "model.safetensors"
    halves = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(halves, weights)
    (path,) = write_converted(_converted(folder, wanted=OutType.AUTO), tmp_path / "out.gguf")
    with open_gguf(path) as gguf:
        down = halves["model.layers.0.mlp.down_proj.weight"].T.contiguous()
        assert bytes(gguf.tensors["blk.0.ffn_down_t.weight"].data) == down.view(torch.uint8).numpy().tobytes()
