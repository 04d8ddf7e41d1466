"""Llama's block with scales, layers without rope, or another activation; pairs of rope are neighbours."""

from typing import Any

from tests.helpers.families.conversion import family_file, neighbours, rope_keys, rotated, sizes
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.model_file import ModelFile


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=24, rope_parameters=rope(1000.0)))


def _granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    scales = {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
    }
    return GraniteForCausalLM(GraniteConfig(**SIZES, **scales, rope_parameters=rope(1000.0)))


def _scales(config: Any) -> dict[str, float]:
    return {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }


def _granite_file(model: Any) -> ModelFile:
    return _file(model, "granite", **_scales(model.config))


def _smollm3() -> Any:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    layers = {"num_hidden_layers": 5}  # the 4th has no rope
    return SmolLM3ForCausalLM(SmolLM3Config(**(SIZES | layers), rope_parameters=rope(1000.0)))


def _arcee() -> Any:
    from transformers import ArceeConfig, ArceeForCausalLM

    return ArceeForCausalLM(ArceeConfig(**SIZES, head_dim=24, rope_parameters=rope(1000.0)))


def _file(model: Any, arch: str, **more: Any) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | rotated(config) | more
    return family_file(model, arch, keys, change=neighbours(config))


FAMILIES = {
    "llama": Family("llama", _llama, lambda model: _file(model, "llama")),
    "granite": Family("granite", _granite, _granite_file),
    "smollm3": Family("smollm3", _smollm3, lambda model: _file(model, "smollm3")),
    "arcee": Family("arcee", _arcee, lambda model: _file(model, "arcee")),
}
