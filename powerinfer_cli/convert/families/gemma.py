"""Gemma 1 to 3: the models add 1 to norms' weights, files have the sums."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import LLAMA, POST_NORMS, norms_plus_one

__all__ = ["CONVERSIONS"]

GLOBAL_BASE = 1e6


def _gemma(config: Config) -> Names:
    return norms_plus_one(LLAMA)


def _around(config: Config) -> Names:
    return norms_plus_one(POST_NORMS)


def _gemma_keys(config: Config) -> KeyValues:
    """No base is written: it is the default."""
    return {"rope.freq_base": None}


def _gemma2_keys(config: Config) -> KeyValues:
    return _gemma_keys(config) | {
        "attn_logit_softcapping": config.number("attn_logit_softcapping"),
        "final_logit_softcapping": config.number("final_logit_softcapping"),
        "attention.sliding_window": config.integer("sliding_window"),
    }


def _gemma3_keys(config: Config) -> KeyValues:
    found: KeyValues = {
        "rope.freq_base": float(Config(config.path, config.rope).number("rope_theta", default=GLOBAL_BASE))
    }
    if config.get("attn_logit_softcapping") is not None:
        config.fail("attn_logit_softcapping: Gemma 3 has none")
    if config.get("final_logit_softcapping"):
        found["final_logit_softcapping"] = float(config.number("final_logit_softcapping"))
    if config.get("sliding_window_pattern") != 1:
        found["attention.sliding_window"] = config.integer("sliding_window")
    return found


DEFAULTS = {"rms_norm_eps": 1e-6, "head_dim": 256, "tie_word_embeddings": True}
GEMMA2 = {**DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}
GEMMA3 = {
    **DEFAULTS,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "rope_local_base_freq": 10000.0,
}
HEAD = r"lm_head\.weight"  # the embedding's copy
CONVERSIONS = (
    Conversion("gemma", ("GemmaForCausalLM",), _gemma, _gemma_keys, skipped=HEAD, defaults=DEFAULTS),
    Conversion("gemma2", ("Gemma2ForCausalLM",), _around, _gemma2_keys, skipped=HEAD, defaults=GEMMA2),
    Conversion(
        "gemma3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        _around,
        _gemma3_keys,
        defaults=GEMMA3,
    ),
)
