"""Mistral 3 and Ministral 3: as Llama's, with keys for queries that grow beyond the original context."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import head_keys, turned_heads

__all__ = ["CONVERSIONS"]


def _names(config: Config) -> Names:
    return turned_heads(config)


def _keys(config: Config) -> KeyValues:
    if config.get("model_type") != "ministral3":
        return head_keys(config)
    rope = Config(config.path, config.rope)
    return head_keys(config) | {
        "rope.scaling.yarn_log_multiplier": float(rope.number("mscale_all_dim")),
        "attention.temperature_scale": float(rope.number("llama_4_scaling_beta")),
    }


CONVERSIONS = (
    Conversion(
        "mistral3",
        ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
        _names,
        _keys,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    ),
)
