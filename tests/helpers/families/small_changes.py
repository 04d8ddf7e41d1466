"""Blocks near Llama's with a norm elsewhere, other biases or another activation: GLM 4, Seed-OSS, Hunyuan, Apertus."""

from functools import partial
from typing import Any

from tests.helpers.families.family import SIZES, Family, rope

HEAD = {"head_dim": 24}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def _glm4() -> Any:
    from transformers import Glm4Config, Glm4ForCausalLM

    parameters = rope(1000.0, partial_rotary_factor=0.5)
    return Glm4ForCausalLM(Glm4Config(**SIZES, **HEAD, attention_bias=True, rope_parameters=parameters))


def _seed_oss() -> Any:
    from transformers import SeedOssConfig, SeedOssForCausalLM

    return SeedOssForCausalLM(SeedOssConfig(**SIZES, **HEAD, attention_bias=True, rope_parameters=rope(1000.0)))


def _hunyuan() -> Any:
    from transformers import HunYuanDenseV1Config, HunYuanDenseV1ForCausalLM

    parameters = rope(10000.0, rope_type="dynamic", alpha=50.0, factor=1.0)
    own = HEAD | {"max_position_embeddings": 32768, "rope_parameters": parameters}
    return HunYuanDenseV1ForCausalLM(HunYuanDenseV1Config(**(SIZES | own)))


def _apertus(**more: Any) -> Any:
    from transformers import ApertusConfig, ApertusForCausalLM

    sizes = {"max_position_embeddings": 8 * 64}
    parameters = rope(1000.0, rope_type="llama3", **LLAMA3)
    return ApertusForCausalLM(ApertusConfig(**(SIZES | sizes | more), rope_parameters=parameters))


FAMILIES = {
    "glm4": Family("glm4", _glm4),
    "seed_oss": Family("seed_oss", _seed_oss),
    "hunyuan-dense": Family("hunyuan-dense", _hunyuan),
    "apertus": Family("apertus", _apertus),
    "apertus-biases": Family("apertus", partial(_apertus, attention_bias=True)),
}
