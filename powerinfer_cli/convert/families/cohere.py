"""Command R and its second generation: their rope turns neighbours in their own code as well."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import llama_names

__all__ = ["CONVERSIONS"]


def _names(config: Config) -> Names:
    return llama_names(config)


def _keys(config: Config) -> KeyValues:
    """max_position_embeddings is less than these models were trained for."""
    return {
        "context_length": config.integer("model_max_length", "max_position_embeddings"),
        "logit_scale": float(config.number("logit_scale")),
        "rope.scaling.type": "none",
    }


def _cohere2_keys(config: Config) -> KeyValues:
    part = config.number("rotary_pct", default=1.0)
    return {
        "logit_scale": float(config.number("logit_scale")),
        "attention.sliding_window": config.integer("sliding_window"),
        "vocab_size": config.integer("vocab_size"),
        "rope.dimension_count": int(part * (config.n_embd // config.n_head)),
        "rope.scaling.type": "none",
    }


DEFAULTS = {"layer_norm_eps": 1e-5, "rope_theta": 10000.0, "logit_scale": 0.0625, "tie_word_embeddings": True}
CONVERSIONS = (
    Conversion("command-r", ("CohereForCausalLM",), _names, _keys, defaults=DEFAULTS),
    Conversion(
        "cohere2", ("Cohere2ForCausalLM",), _names, _cohere2_keys, defaults={**DEFAULTS, "sliding_window": 4096}
    ),
)
