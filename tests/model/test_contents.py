"""Files that are no models, or models of kinds that do not run: each is named, with what to do instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import ARCHITECTURES, load_model
from tests.helpers.model_file import ModelFile

MATRIX = np.ones((64, 64), np.float32)


def refusal(model: ModelFile, folder: Path) -> str:
    with pytest.raises(PowerInferError) as caught:
        load_model(model.open(folder))
    message = str(caught.value)
    assert message.startswith(f"{folder / 'model.gguf'}: ")
    assert "\n" not in message
    return message


def of(arch: str, keys: dict[str, Any], *tensors: str) -> ModelFile:
    """A file of another kind; keys without a dot in front belong to the architecture."""
    metadata = {
        key if key.startswith(("general.", "adapter.", "imatrix.")) else f"{arch}.{key}": keys[key] for key in keys
    }
    return ModelFile(arch, metadata, dict.fromkeys(tensors, MATRIX))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            of("llama", {"general.type": "adapter", "adapter.type": "lora"}, "blk.0.attn_q.weight.lora_a"),
            ("a LoRA adapter", "general.type is 'adapter'", "llama-export-lora"),
        ),
        (of("llama", {"block_count": 1}, "blk.0.attn_q.weight.lora_b"), ("a LoRA adapter", "attn_q.weight.lora_b")),
        (of("clip", {"general.type": "mmproj"}, "v.patch_embd.weight"), ("(mmproj)", "the path of the model itself")),
        (of("clip", {}, "mm.0.weight"), ("(mmproj)", "general.architecture is 'clip'")),
        (of("", {"general.type": "imatrix"}, "blk.0.attn_q.weight.in_sum2"), ("(imatrix)", "the model itself")),
        (of("llama", {"imatrix.chunk_count": 3}, "x"), ("(imatrix)", "imatrix.chunk_count is 3")),
        (of("controlvector", {}, "direction.1"), ("a control vector",)),
        (of("generic.gpu_index", {}, "blk.0.gpu_idx"), ("a placement plan (.gpuidx)",)),
        (of("llama", {"general.type": "recipe"}, "x"), ("general.type is 'recipe'", "no whole model")),
        (of("qwen2", {"block_count": 2}), ("only a vocabulary", "the path of the model itself")),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, file: ModelFile, words: tuple[str, ...]) -> None:
    message = refusal(file, tmp_path)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (of("neo-bert", {"attention.causal": False, "block_count": 12}, "x"), ("an encoder for embed", "12 layers")),
        (of("somebert", {"attention.causal": False}, "x"), ("an encoder", "somebert.attention.causal is false")),
        (of("neo-bert", {}, "x"), ("an encoder for embeddings", "use one of bert, nomic-bert")),
        (of("t5", {"decoder_block_count": 4}, "dec.blk.0.attn_q.weight"), ("encoder and decoder",)),
        (of("t5encoder", {}, "enc.blk.0.attn_q.weight"), ("an encoder",)),
        (of("llama-embed", {}, "x"), ("an encoder",)),
        (of("mamba", {"ssm.state_size": 16}, "x"), ("a recurrent or hybrid model", "use a dense transformer")),
        (of("newmamba", {"ssm.state_size": 16}, "x"), ("a recurrent", "newmamba.ssm.state_size is 16")),
        (of("jamba", {"ssm.state_size": 16, "expert_count": 8}, "x"), ("a recurrent or hybrid model",)),
        (of("rwkv7", {"wkv.head_size": 64}, "x"), ("a recurrent or hybrid model",)),
        (of("other", {}, "blk.0.time_mix_key.weight"), ("a recurrent", "blk.0.time_mix_key.weight")),
        (
            of("qwen9moe", {"expert_count": 128, "block_count": 48}, "x"),
            ("a mixture-of-experts model (qwen9moe.expert_count is 128)", "the nearest that is: qwen3", "48 layers"),
        ),
        (of("minicpm3", {"attention.kv_lora_rank": 512}, "x"), ("latent attention",)),
        (of("phi4", {}, "x"), ("nearest that is: phi3;",)),
        (of("exaone", {}, "x"), ("nearest that is: exaone4;",)),
        (of("dream", {}, "x"), ("a diffusion model",)),
        (of("eagle3", {}, "x"), ("a draft head",)),
        (
            of("gemma9", {"block_count": 3}, "x", "y"),
            ("nearest that is: gemma", "3 layers, 8.19 thousand parameters, mostly F32"),
        ),
    ],
)
def test_architectures_that_do_not_run(tmp_path: Path, file: ModelFile, words: tuple[str, ...]) -> None:
    message = refusal(file, tmp_path)
    assert f"architecture {file.arch!r} is not supported" in message
    for word in words:
        assert word in message
    if "recurrent" in message:
        assert "nearest" not in message  # mamba is no bamboo


@pytest.mark.parametrize("arch", ["qwen2", "gemma3", "phi3", "gpt2"])
@pytest.mark.parametrize(
    ("keys", "tensors", "words"),
    [
        (
            {"expert_count": 8},
            (),
            ("expert_count is 8", "mixture-of-experts", "experts of this architecture do not run yet"),
        ),
        ({}, ("blk.0.ffn_gate_exps.weight",), ("mixture-of-experts", "blk.0.ffn_gate_exps.weight")),
        ({}, ("blk.1.ffn_gate_inp.weight",), ("mixture-of-experts", "blk.1.ffn_gate_inp.weight")),
        ({}, ("blk.1.ffn_down_shexp.weight",), ("mixture-of-experts",)),
        ({"ssm.conv_kernel": 4}, (), ("a recurrent or hybrid model", "ssm.conv_kernel is 4")),
        ({}, ("blk.0.ssm_conv1d.weight",), ("a recurrent or hybrid model", "blk.0.ssm_conv1d.weight")),
        ({"attention.kv_lora_rank": 64}, (), ("latent attention", "attention.kv_lora_rank is 64")),
    ],
)
def test_parts_that_are_not_there(
    tmp_path: Path, arch: str, keys: dict[str, Any], tensors: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refusal(of(arch, {"block_count": 2, **keys}, "token_embd.weight", *tensors), tmp_path)
    assert f"not supported for {arch} models" in message
    for word in words:
        assert word in message


def test_a_summary_counts_by_numbers(llama: ModelFile, tmp_path: Path) -> None:
    message = refusal(replace(llama, arch="lllama", metadata={"lllama.block_count": "two"}), tmp_path)
    assert "the nearest that is: llama" in message
    assert "layers" not in message
    assert "thousand parameters, mostly F32" in message
    assert all(name in message for name in ARCHITECTURES)


def test_names_that_are_no_text_stay_on_one_line(tmp_path: Path) -> None:
    message = refusal(of("a\nb", {"expert_count": 8}, "blk.0.ffn_up_exps.we\night"), tmp_path)
    assert "mixture" in message
