"""Blocks near Llama's with a norm elsewhere, other biases or another activation: GLM 4, Seed-OSS, Hunyuan, Apertus."""

from functools import partial
from typing import Any

from tests.helpers.converter import LLAMA_NAMES
from tests.helpers.families.conversion import family_file, rope_keys, rotated, sizes
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.model_file import ModelFile

HEAD = {"head_dim": 24}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
GLM4_NAMES = LLAMA_NAMES | {
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "mlp.gate_up_proj": "ffn_up",
}
SEED_NAMES = LLAMA_NAMES | {"post_attention_layernorm": "post_attention_norm"}
HUNYUAN_NAMES = LLAMA_NAMES | {
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
}
APERTUS_NAMES = LLAMA_NAMES | {
    "attention_layernorm": "attn_norm",
    "feedforward_layernorm": "ffn_norm",
    "mlp.act_fn": "xielu",
}


def _glm4() -> Any:
    from transformers import Glm4Config, Glm4ForCausalLM

    parameters = rope(1000.0, partial_rotary_factor=0.5)
    return Glm4ForCausalLM(Glm4Config(**SIZES, **HEAD, attention_bias=True, rope_parameters=parameters))


def _glm4_file(model: Any) -> ModelFile:
    """Its rope turns neighbours in transformers as well: nothing is reordered."""
    keys = sizes(model.config) | rope_keys(model.config) | rotated(model.config)
    return family_file(model, "glm4", keys, GLM4_NAMES)


def _seed_oss() -> Any:
    from transformers import SeedOssConfig, SeedOssForCausalLM

    return SeedOssForCausalLM(SeedOssConfig(**SIZES, **HEAD, attention_bias=True, rope_parameters=rope(1000.0)))


def _seed_oss_file(model: Any) -> ModelFile:
    """What is called a norm behind attention is the one before the FFN."""
    return family_file(model, "seed_oss", sizes(model.config) | rope_keys(model.config), SEED_NAMES)


def _hunyuan() -> Any:
    from transformers import HunYuanDenseV1Config, HunYuanDenseV1ForCausalLM

    parameters = rope(10000.0, rope_type="dynamic", alpha=50.0, factor=1.0)
    own = HEAD | {"max_position_embeddings": 32768, "rope_parameters": parameters}
    return HunYuanDenseV1ForCausalLM(HunYuanDenseV1Config(**(SIZES | own)))


def hunyuan_keys(config: Any) -> dict[str, Any]:
    """alpha becomes a larger base; the context's size is what the converter believes it to be."""
    parameters, head_dim = config.rope_parameters, config.head_dim
    n_ctx = 256 * 1024
    return sizes(config) | {
        "context_length": n_ctx,
        "rope.freq_base": parameters["rope_theta"] * parameters["alpha"] ** (head_dim / (head_dim - 2)),
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scaling.original_context_length": n_ctx,
    }


def _hunyuan_file(model: Any) -> ModelFile:
    return family_file(model, "hunyuan-dense", hunyuan_keys(model.config), HUNYUAN_NAMES)


def _apertus(**more: Any) -> Any:
    from transformers import ApertusConfig, ApertusForCausalLM

    sizes = {"max_position_embeddings": 8 * 64}
    parameters = rope(1000.0, rope_type="llama3", **LLAMA3)
    return ApertusForCausalLM(ApertusConfig(**(SIZES | sizes | more), rope_parameters=parameters))


def _apertus_file(model: Any) -> ModelFile:
    """The activation's numbers are keys, one a layer, without the architecture's name in front."""
    keys = sizes(model.config) | rope_keys(model.config) | rotated(model.config)
    file = family_file(model, "apertus", keys, APERTUS_NAMES)
    layers = range(file.n_layer)
    found: dict[str, Any] = {}
    for kind in ("alpha_n", "alpha_p", "beta", "eps"):
        found[f"xielu.{kind}"] = [float(file.tensors[f"blk.{i}.xielu.{kind}"].item()) for i in layers]
    file = file.with_tensors(dict.fromkeys(name for name in file.tensors if ".xielu." in name))
    return ModelFile(file.arch, {**file.metadata, **found}, file.tensors)


FAMILIES = {
    "glm4": Family("glm4", _glm4, _glm4_file),
    "seed_oss": Family("seed_oss", _seed_oss, _seed_oss_file),
    "hunyuan-dense": Family("hunyuan-dense", _hunyuan, _hunyuan_file),
    "apertus": Family("apertus", _apertus, _apertus_file),
    "apertus-biases": Family("apertus", partial(_apertus, attention_bias=True), _apertus_file),
}
