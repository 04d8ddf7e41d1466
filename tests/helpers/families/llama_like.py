"""Llama's block with scales, layers without rope, or another activation; pairs of rope are neighbours."""

from functools import partial
from typing import Any

from tests.helpers.families.conversion import family_file, neighbours, rope_keys, rotated, sizes
from tests.helpers.families.family import ODD, SIZES, Family, rope
from tests.helpers.model_file import ModelFile


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=24, rope_parameters=rope(1000.0)))


def _granite(**more: Any) -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    scales = {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
    }
    return GraniteForCausalLM(GraniteConfig(**SIZES, **scales, **more, rope_parameters=rope(1000.0)))


def granite_scales(config: Any) -> dict[str, float]:
    return {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }


def _granite_file(model: Any) -> ModelFile:
    return _file(model, "granite", **granite_scales(model.config))


def _smollm3() -> Any:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    layers = {"num_hidden_layers": 5}  # the 4th has no rope
    return SmolLM3ForCausalLM(SmolLM3Config(**(SIZES | layers), rope_parameters=rope(1000.0)))


def _arcee() -> Any:
    from transformers import ArceeConfig, ArceeForCausalLM

    return ArceeForCausalLM(ArceeConfig(**ODD, head_dim=20, rope_parameters=rope(1000.0)))


def _mistral3() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES, head_dim=24, sliding_window=None, rope_parameters=rope(1000.0)))


def _ministral3() -> Any:
    """q grows with the logarithm of how many times 16 tokens are behind it."""
    from transformers import Ministral3Config, Ministral3ForCausalLM

    yarn = {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 6.0, "beta_slow": 0.5}
    gains = {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
    parameters = rope(5000.0, rope_type="yarn", **yarn, **gains)
    sizes = SIZES | {"max_position_embeddings": 64 * 4, "head_dim": 24}
    return Ministral3ForCausalLM(Ministral3Config(**sizes, rope_parameters=parameters))


def _ministral3_file(model: Any) -> ModelFile:
    parameters = model.config.rope_parameters
    own = {
        "rope.scaling.yarn_log_multiplier": parameters["mscale_all_dim"],
        "attention.temperature_scale": parameters["llama_4_scaling_beta"],
    }
    return _file(model, "mistral3", **own)


def _ernie4_5() -> Any:
    from transformers import Ernie4_5Config, Ernie4_5ForCausalLM

    return Ernie4_5ForCausalLM(Ernie4_5Config(**SIZES, head_dim=24, rope_parameters=rope(1000.0)))


def _ernie4_5_file(model: Any) -> ModelFile:
    """Its rope turns neighbours in transformers as well: nothing is reordered."""
    return family_file(model, "ernie4_5", sizes(model.config) | rope_keys(model.config))


def _file(model: Any, arch: str, **more: Any) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | rotated(config) | more
    return family_file(model, arch, keys, change=neighbours(config))


FAMILIES = {
    "llama": Family("llama", _llama, lambda model: _file(model, "llama")),
    "granite": Family("granite", _granite, _granite_file),
    "granite-biases": Family("granite", partial(_granite, attention_bias=True, mlp_bias=True), _granite_file),
    "smollm3": Family("smollm3", _smollm3, lambda model: _file(model, "smollm3")),
    "arcee": Family("arcee", _arcee, lambda model: _file(model, "arcee")),
    "mistral3": Family("mistral3", _mistral3, lambda model: _file(model, "mistral3")),
    "ministral3": Family("mistral3", _ministral3, _ministral3_file),
    "ernie4_5": Family("ernie4_5", _ernie4_5, _ernie4_5_file),
}
