"""Arcee, Nemotron, StarCoder 2: llama's names without a gate."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import LLAMA, head_keys, norms_plus_one, turned_heads
from powerinfer_cli.convert.keys import part_keys

__all__ = ["CONVERSIONS"]


def _arcee(config: Config) -> Names:
    return turned_heads(config)


def _nemotron(config: Config) -> Names:
    return norms_plus_one(LLAMA)


def _nemotron_keys(config: Config) -> KeyValues:
    """Both epsilons are written; a context is stretched in no other way than evenly."""
    whose = config if config.first("factor") is not None else Config(config.path, config.rope)
    scaling: KeyValues = {"rope.scaling.type": "none"}
    if whose.first("factor") is not None:
        scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": float(whose.number("factor"))}
    return {
        "vocab_size": config.integer("vocab_size"),
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
        **part_keys(config),
        **scaling,
    }


def _starcoder2(config: Config) -> Names:
    return {**LLAMA, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


CONVERSIONS = (
    Conversion(
        "arcee", ("ArceeForCausalLM",), _arcee, head_keys, defaults={"rms_norm_eps": 1e-5, "rope_theta": 10000.0}
    ),
    Conversion(
        "nemotron",
        ("NemotronForCausalLM",),
        _nemotron,
        _nemotron_keys,
        defaults={"norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    Conversion(
        "starcoder2",
        ("Starcoder2ForCausalLM",),
        _starcoder2,
        defaults={"norm_epsilon": 1e-5, "rope_theta": 10000.0, "num_key_value_heads": 2},
    ),
)
