"""Blocks with LayerNorm that has a bias: StableLM, StarCoder 2, Nemotron."""

from functools import partial
from typing import Any

import numpy as np

from tests.helpers.converter import LLAMA_NAMES
from tests.helpers.families.conversion import family_file, norms_plus_one, rope_keys, rotated, sizes
from tests.helpers.families.family import ODD, SIZES, Family, rope
from tests.helpers.model_file import ModelFile

STARCODER_NAMES = LLAMA_NAMES | {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def _stablelm(**more: Any) -> Any:
    from transformers import StableLmConfig, StableLmForCausalLM

    parameters = rope(10000.0, partial_rotary_factor=0.5)  # the converter writes no base
    return StableLmForCausalLM(StableLmConfig(**ODD, **more, rope_parameters=parameters))


def _stablelm_file(model: Any) -> ModelFile:
    config = model.config
    parallel = {"use_parallel_residual": config.use_parallel_residual}
    heads = {f"self_attn.{x}_layernorm.norms.{i}": f"attn_{x}_norm.{i}" for x in "qk" for i in range(6)}
    file = family_file(model, "stablelm", sizes(config) | rotated(config) | parallel, LLAMA_NAMES | heads)
    return file.with_tensors(_stacked(file)) if config.qk_layernorm else file


def _stacked(file: ModelFile) -> dict[str, np.ndarray | None]:
    """Each head's norm, in one tensor [heads, head_dim]."""
    changes: dict[str, np.ndarray | None] = {}
    for layer in range(file.n_layer):
        for norm in (f"blk.{layer}.attn_q_norm", f"blk.{layer}.attn_k_norm"):
            parts = [name for name in file.tensors if name.startswith(f"{norm}.")]
            changes |= dict.fromkeys(parts)
            changes[f"{norm}.weight"] = np.stack([file.tensors[name] for name in parts])
    return changes


def _starcoder2() -> Any:
    """The released models' window of 4096 is in no key: files of it see everything."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    return Starcoder2ForCausalLM(Starcoder2Config(**SIZES, rope_parameters=rope(1000.0)))


def _starcoder2_file(model: Any) -> ModelFile:
    return family_file(model, "starcoder2", sizes(model.config) | rope_keys(model.config), STARCODER_NAMES)


def _nemotron(**more: Any) -> Any:
    from transformers import NemotronConfig, NemotronForCausalLM

    parameters = rope(1000.0, partial_rotary_factor=0.5)
    return NemotronForCausalLM(NemotronConfig(**SIZES, **more, rope_parameters=parameters))


def _nemotron_file(model: Any) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | rotated(config) | {"rope.scaling.type": "none"}
    keys["attention.layer_norm_rms_epsilon"] = config.norm_eps  # the converter writes both
    return family_file(model, "nemotron", keys, change=norms_plus_one)


FAMILIES = {
    "stablelm": Family("stablelm", lambda: _stablelm(use_qkv_bias=True), _stablelm_file),
    "stablelm-2-12b": Family(
        "stablelm", lambda: _stablelm(qk_layernorm=True, use_parallel_residual=True), _stablelm_file
    ),
    "starcoder2": Family("starcoder2", _starcoder2, _starcoder2_file),
    "nemotron": Family("nemotron", _nemotron, _nemotron_file, norm_mean=0.0),
    "nemotron-biases": Family(
        "nemotron", partial(_nemotron, attention_bias=True, mlp_bias=True), _nemotron_file, norm_mean=0.0
    ),
}
