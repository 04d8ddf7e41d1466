"""Strict loading: a tensor too few, too many or of another shape is one line that names it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model import Model, load_model
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import CASES, RELU_CASES, tiny_model


def load(model: ModelFile, folder: Path) -> Model:
    return load_model(model.open(folder))


def refusal(model: ModelFile, folder: Path) -> str:
    with pytest.raises(PowerInferError) as caught:
        load(model, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "model.gguf" in message
    return message


def optional(model: ModelFile, name: str) -> bool:
    """Without these (in every layer) a file is a valid model still, if another one."""
    kind = name.split(".")[-2]
    return (
        name in ("output.weight", "rope_freqs.weight")
        or (name.endswith(".bias") and model.arch == "llama")
        or name.endswith("attn_norm_2.bias")
        or (kind == "ffn_down_t" and name.endswith(".bias"))
    )


@pytest.mark.parametrize("name", ["llama-llama3", "qwen2", "qwen3", "falcon-40b", "opt", "bamboo"])
def test_each_tensor_is_needed(tmp_path: Path, name: str) -> None:
    model = tiny_model(name).file
    for tensor in model.tensors:
        if optional(model, tensor):
            names = (
                [tensor] if not tensor.startswith("blk.") else [f"blk.{i}.{tensor[6:]}" for i in range(model.n_layer)]
            )
            load(model.with_tensors(dict.fromkeys(names)), tmp_path)
        else:
            assert tensor in refusal(model.with_tensors({tensor: None}), tmp_path)


@pytest.mark.parametrize("name", RELU_CASES)
def test_each_tensor_of_a_sparse_model_is_needed(tmp_path: Path, name: str) -> None:
    tiny = tiny_model(name)
    model = tiny.file.sparsified(random_predictors(tiny))
    for tensor in model.tensors:
        if tensor.startswith("blk.1.") and not optional(model, tensor):
            assert tensor in refusal(model.with_tensors({tensor: None}), tmp_path)


def test_layers_are_alike(tmp_path: Path) -> None:
    """What is optional, such as a llama's biases, is there in all layers or in none."""
    model = tiny_model("llama-biases").file
    biases = [
        tensor.removeprefix("blk.0.") for tensor in model.tensors if tensor.startswith("blk.0.") and "bias" in tensor
    ]
    assert len(biases) == 7
    for bias in biases:
        for layer in (0, 1):
            message = refusal(model.with_tensors({f"blk.{layer}.{bias}": None}), tmp_path)
            assert f"blk.{layer}.{bias} is missing" in message
        load(model.with_tensors({f"blk.{layer}.{bias}": None for layer in (0, 1)}), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_each_shape_is_checked(tmp_path: Path, name: str) -> None:
    model = tiny_model(name).file
    for tensor, data in model.tensors.items():
        if tensor.startswith("blk.1.") or tensor == "position_embd.weight":
            continue  # as blk.0; and positions may be any number
        wider = np.zeros((*data.shape[:-1], data.shape[-1] + 1), np.float32)
        assert f"{tensor} has shape {' x '.join(map(str, wider.shape))}, but" in refusal(
            model.with_tensors({tensor: wider}), tmp_path
        )


def test_dimensions_are_checked(llama: ModelFile, tmp_path: Path) -> None:
    for tensor, shape in (("output_norm.weight", (2, 64)), ("blk.0.attn_q.weight", (2, 64, 64))):
        assert tensor in refusal(llama.with_tensors({tensor: np.zeros(shape, np.float32)}), tmp_path)


@pytest.mark.parametrize(
    "tensor", ["blk.2.attn_q.weight", "blk.0.attn_q.scale", "blk.0.fc1.weight", "blk.00.attn_q.weight", "lm_head", "x"]
)
def test_other_tensors_are_refused(llama: ModelFile, tmp_path: Path, tensor: str) -> None:
    message = refusal(llama.with_tensors({tensor: np.zeros((64, 64), np.float32)}), tmp_path)
    assert f"unexpected tensor {tensor}" in message


@pytest.mark.parametrize("tensor", ["blk.1.attn_rot_embd.weight", "blk.0.attn.rotary_emb.inv_freq"])
def test_rotary_tables_of_old_files_are_passed_over(llama: ModelFile, tmp_path: Path, tensor: str) -> None:
    load(llama.with_tensors({tensor: np.zeros(8, np.float32)}), tmp_path)


def test_a_dense_file_with_the_sparse_magic_and_the_reverse(
    llama: ModelFile, sparse_llama: ModelFile, tmp_path: Path
) -> None:
    assert "blk.0.ffn_down_t.weight is missing" in refusal(replace(llama, sparse=True), tmp_path)
    assert "blk.0.ffn_down.weight is missing" in refusal(replace(sparse_llama, sparse=False), tmp_path)


def test_predictors_fit_together(sparse_llama: ModelFile, tmp_path: Path) -> None:
    changed = sparse_llama.with_tensors({"blk.1.fc2.weight": np.zeros((112, 12), np.float32)})
    message = refusal(changed, tmp_path)
    assert "blk.1.fc1.weight" in message
    assert "ranks 13 and 12" in message


def test_a_predictor_of_rank_0(sparse_llama: ModelFile, tmp_path: Path) -> None:
    empty = {"blk.1.fc1.weight": np.zeros((0, 64), np.float32), "blk.1.fc2.weight": np.zeros((112, 0), np.float32)}
    assert "blk.1.fc1.weight" in refusal(sparse_llama.with_tensors(empty), tmp_path)


def without_predictor(model: ModelFile, layer: int, named: object) -> ModelFile:
    lost = model.with_tensors({f"blk.{layer}.{name}.weight": None for name in ("fc1", "fc2")})
    return replace(lost, metadata={**lost.metadata, "powerinfer.dense_layers": named})


def test_layers_without_a_predictor_are_named(sparse_llama: ModelFile, tmp_path: Path) -> None:
    found = load(without_predictor(sparse_llama, 1, np.array([1], np.int32)), tmp_path)
    assert found.config.sparse
    assert [layer.ffn.neurons.transposed for layer in found.layers] == [True, True]
    message = refusal(without_predictor(sparse_llama, 1, np.array([0], np.int32)), tmp_path)
    assert "blk.1.fc1.weight is missing" in message
    named = replace(sparse_llama, metadata={**sparse_llama.metadata, "powerinfer.dense_layers": np.array([0])})
    assert "unexpected tensor blk.0.fc1.weight" in refusal(named, tmp_path)


@pytest.mark.parametrize("named", [[0, 1], [2], [-1], [1, 1], [0.5]])
def test_dense_layers_that_cannot_be(sparse_llama: ModelFile, tmp_path: Path, named: list[float]) -> None:
    message = refusal(without_predictor(sparse_llama, 1, np.array(named)), tmp_path)
    assert "powerinfer.dense_layers must name some of the layers 0 to 1, none of them twice" in message


@pytest.mark.parametrize("there", [True, False])
def test_biases_of_layers_with_and_without_predictors_are_alike(tmp_path: Path, there: bool) -> None:
    opt = tiny_model("opt")
    mixed = opt.file.sparsified([random_predictors(opt)[0], None])
    assert {"blk.0.ffn_down_t.bias", "blk.1.ffn_down.bias"} < mixed.tensors.keys()
    assert load(mixed, tmp_path).layers[1].ffn.neurons.down.bias is not None
    if not there:
        assert "blk.1.ffn_down.bias is missing" in refusal(mixed.with_tensors({"blk.1.ffn_down.bias": None}), tmp_path)


def test_one_down_bias_at_most(tmp_path: Path) -> None:
    opt = tiny_model("opt")
    sparse = opt.file.sparsified(random_predictors(opt))
    both = sparse.with_tensors({"blk.1.ffn_down.bias": np.zeros(64, np.float32)})
    message = refusal(both, tmp_path)
    assert "blk.1.ffn_down.bias" in message
    assert "blk.1.ffn_down_t.bias" in message


@pytest.mark.parametrize("kind", [GGMLType.I8, GGMLType.I32, GGMLType.I64])
@pytest.mark.parametrize("tensor", ["token_embd.weight", "blk.1.ffn_norm.weight"])
def test_integers_are_no_weights(llama: ModelFile, tmp_path: Path, kind: GGMLType, tensor: str) -> None:
    dtype = {GGMLType.I8: np.int8, GGMLType.I32: np.int32, GGMLType.I64: np.int64}[kind]
    changed = replace(llama.with_tensors({tensor: llama.tensors[tensor].astype(dtype)}), types={tensor: kind})
    message = refusal(changed, tmp_path)
    assert tensor in message
    assert kind.name in message


def test_fused_rows_are_queries_keys_values(tmp_path: Path) -> None:
    gguf = tiny_model("falcon-40b").file.open(tmp_path)
    attention = load_model(gguf).layers[0].attention
    parts = [linear.weight for linear in (attention.q, attention.k, attention.v)]
    assert [part.shape for part in parts] == [(64, 64), (32, 64), (32, 64)]
    whole = gguf.tensors["blk.0.attn_qkv.weight"].to_float32()
    assert np.array_equal(np.concatenate([part.to_float32() for part in parts]), whole)


def test_a_second_norm_is_whole_or_absent(tmp_path: Path) -> None:
    model = tiny_model("falcon-40b").file
    parts = {f"blk.{layer}.attn_norm_2.{part}": None for layer in range(2) for part in ("weight", "bias")}
    load(model.with_tensors(parts), tmp_path)
    assert "blk.1.attn_norm_2.weight" in refusal(model.with_tensors({"blk.1.attn_norm_2.weight": None}), tmp_path)


def test_a_tied_output_is_the_embedding(tmp_path: Path) -> None:
    gguf = tiny_model("llama-all-kv-heads").file.open(tmp_path)
    model = load_model(gguf)
    assert model.head.output.weight is model.embedding.tokens
