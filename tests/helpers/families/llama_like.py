"""Llama's block with scales, layers without rope, or another activation; pairs of rope are neighbours."""

from functools import partial
from typing import Any

from tests.helpers.checkpoints import published
from tests.helpers.families.family import ODD, SIZES, Family, rope


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


def _smollm3() -> Any:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    layers = {"num_hidden_layers": 5}  # the 4th has no rope
    return SmolLM3ForCausalLM(SmolLM3Config(**(SIZES | layers), rope_parameters=rope(1000.0)))


def _arcee() -> Any:
    from transformers import ArceeConfig, ArceeForCausalLM

    return ArceeForCausalLM(ArceeConfig(**ODD, head_dim=20, rope_parameters=rope(1000.0)))


def _mistral3() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    model = MistralForCausalLM(MistralConfig(**SIZES, head_dim=24, sliding_window=None, rope_parameters=rope(1000.0)))
    return published(model, "Mistral3ForConditionalGeneration")


def _ministral3() -> Any:
    """q grows with the logarithm of how many times 16 tokens are behind it."""
    from transformers import Ministral3Config, Ministral3ForCausalLM

    yarn = {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 6.0, "beta_slow": 0.5}
    gains = {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
    parameters = rope(5000.0, rope_type="yarn", **yarn, **gains)
    sizes = SIZES | {"max_position_embeddings": 64 * 4, "head_dim": 24}
    return Ministral3ForCausalLM(Ministral3Config(**sizes, rope_parameters=parameters))


def _ernie4_5() -> Any:
    from transformers import Ernie4_5Config, Ernie4_5ForCausalLM

    return Ernie4_5ForCausalLM(Ernie4_5Config(**SIZES, head_dim=24, rope_parameters=rope(1000.0)))


FAMILIES = {
    "llama": Family("llama", _llama),
    "granite": Family("granite", _granite),
    "granite-biases": Family("granite", partial(_granite, attention_bias=True, mlp_bias=True)),
    "smollm3": Family("smollm3", _smollm3),
    "arcee": Family("arcee", _arcee),
    "mistral3": Family("mistral3", _mistral3),
    "ministral3": Family("mistral3", _ministral3),
    "ernie4_5": Family("ernie4_5", _ernie4_5),
}
