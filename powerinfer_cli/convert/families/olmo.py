"""OLMo 1, whose norms have no weights; OLMo 2 and 3, EXAONE 4: norms behind the blocks alone."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import POST_NORMS, turned_heads, window_keys

__all__ = ["CONVERSIONS"]


def _olmo(config: Config) -> Names:
    return turned_heads(config)


def _behind(config: Config) -> Names:
    return POST_NORMS


def _olmo_keys(config: Config) -> KeyValues:
    clamp = float(config.number("clip_qkv")) if "clip_qkv" in config else None
    return {"attention.layer_norm_epsilon": 1e-5, "attention.clamp_kqv": clamp}


def _olmo2_keys(config: Config) -> KeyValues:
    """OLMo 3 has windows in three of four layers."""
    return window_keys(config, 4)


def _exaone4_keys(config: Config) -> KeyValues:
    return window_keys(_with_pattern(config), 4) | {"vocab_size": config.integer("vocab_size")}


def _with_pattern(config: Config) -> Config:
    """Older files say which layers have a window by a word as LLLG, or by how often one has none."""
    word = config.get("sliding_window_pattern")
    if "layer_types" in config or not isinstance(word, str | int) or not word:
        return config
    n = config.n_layer
    windowed = [word[i % len(word)] == "L" if isinstance(word, str) else bool((i + 1) % word) for i in range(n)]
    return config.with_defaults({"layer_types": ["sliding_attention" if one else "full_attention" for one in windowed]})


DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0}
CONVERSIONS = (
    Conversion("olmo", ("OlmoForCausalLM", "OLMoForCausalLM"), _olmo, _olmo_keys, defaults={"rope_theta": 10000.0}),
    Conversion("olmo2", ("Olmo2ForCausalLM", "Olmo3ForCausalLM"), _behind, _olmo2_keys, defaults=DEFAULTS),
    Conversion("exaone4", ("Exaone4ForCausalLM",), _behind, _exaone4_keys, defaults=DEFAULTS),
)
