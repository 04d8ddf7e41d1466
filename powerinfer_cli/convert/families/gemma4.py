"""Gemma 4: heads of two sizes, layers' scales, experts beside the dense FFN; embeddings by layer, shared keys."""

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, Floats, KeyValues, Names, Vocabulary
from powerinfer_cli.convert.families.names import POST_NORMS

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    **POST_NORMS,
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
    "router.proj": "ffn_gate_inp",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "layer_scalar": "layer_output_scale.weight",
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
}
WIDE = 512  # heads where all is seen, if config.json does not say
UNTURNED = 1e30  # what turns by so slow a frequency stays


def _names(config: Config) -> Names:
    return NAMES


def _windowed(config: Config) -> list[bool]:
    return [kind == "sliding_attention" for kind in config.items("layer_types", str, config.n_layer)]


def _of_global(config: Config, name: str, inner: str) -> int | None:
    """A size of the layers that see everything: by its own name, or among what is said of single layers."""
    if name in config:
        return config.integer(name)
    layers, windowed = config.section("per_layer_config"), _windowed(config)
    for number, windows in enumerate(windowed):
        layer = layers.get(str(number))
        if not windows and isinstance(layer, dict) and inner in layer:
            return Config(config.path, layer).integer(inner)
    return None


def _global_head(config: Config) -> int:
    return _of_global(config, "global_head_dim", "head_dim") or WIDE


def _keys(config: Config) -> KeyValues:
    windowed, wide, narrow = _windowed(config), _global_head(config), config.head_dim
    n_shared = config.integer("num_kv_shared_layers", default=0)
    keys: KeyValues = {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": windowed,
        "attention.shared_kv_layers": n_shared,
        "embedding_length_per_layer_input": config.integer("hidden_size_per_layer_input", default=0),
        "attention.key_length": wide,
        "attention.value_length": wide,
        "attention.key_length_swa": narrow,
        "attention.value_length_swa": narrow,
        "rope.dimension_count": wide,
        "rope.dimension_count_swa": narrow,
    }
    if config.get("final_logit_softcapping"):
        keys["final_logit_softcapping"] = float(config.number("final_logit_softcapping"))
    if config.first("expert_intermediate_size", "moe_intermediate_size") is not None:
        keys["expert_feed_forward_length"] = config.integer("expert_intermediate_size", "moe_intermediate_size")
    if config.get("use_double_wide_mlp"):
        n_ff, first = config.integer("intermediate_size"), config.n_layer - n_shared
        keys["feed_forward_length"] = [n_ff if i < first else 2 * n_ff for i in range(config.n_layer)]
    n_kv = _of_global(config, "num_global_key_value_heads", "num_key_value_heads")
    if n_kv is not None:
        keys["attention.head_count_kv"] = [config.n_head_kv if windows else n_kv for windows in windowed]
    return keys


def _factors(config: Config) -> dict[str, Floats]:
    """A part of the wide heads turns, at the frequencies of the whole."""
    half, part = _global_head(config) // 2, config.part_turned
    turned = int(_global_head(config) * part / 2)
    return {"rope_freqs.weight": np.array([1.0] * turned + [UNTURNED] * (half - turned), np.float32)}


CONVERSIONS = (
    Conversion(
        "gemma4",
        ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"),
        _names,
        _keys,
        _factors,
        defaults={"rms_norm_eps": 1e-6, "head_dim": 256, "tie_word_embeddings": True},
        vocabulary=Vocabulary(merges=True),
    ),
)
