"""StableLM, whose heads' norms are stacked; GPT-NeoX, which has a head's queries, keys and values together; Orion."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import LLAMA
from powerinfer_cli.convert.keys import part_keys
from powerinfer_cli.convert.moves import thirds

__all__ = ["CONVERSIONS"]

STABLELM: Names = {
    **LLAMA,
    "self_attn.q_layernorm.norms.*": "attn_q_norm",
    "self_attn.k_layernorm.norms.*": "attn_k_norm",
}
NEOX: Names = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def _stablelm(config: Config) -> Names:
    return STABLELM


def _gptneox(config: Config) -> Names:
    return {**NEOX, "attention.query_key_value": Part("attn_qkv", thirds(config.n_head))}


def _orion(config: Config) -> Names:
    return LLAMA


def _sizes(config: Config) -> KeyValues:
    return {
        "block_count": config.n_layer,
        "context_length": config.integer("max_sequence_length", "max_position_embeddings", "model_max_length"),
        "embedding_length": config.n_embd,
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.n_head,
    }


def _stablelm_keys(config: Config) -> KeyValues:
    return _sizes(config) | {
        "attention.head_count_kv": config.n_head_kv,
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", "norm_eps"),
        "use_parallel_residual": config.flag("use_parallel_residual", True),
        "rope.dimension_count": int(config.part_turned * (config.n_embd // config.n_head)),
    }


def _gptneox_keys(config: Config) -> KeyValues:
    return _sizes(config) | {
        "attention.layer_norm_epsilon": config.number("layer_norm_eps"),
        "use_parallel_residual": config.flag("use_parallel_residual", True),
        **part_keys(config),
    }


def _orion_keys(config: Config) -> KeyValues:
    """Its rms_norm_eps is LayerNorm's."""
    return _sizes(config) | {
        "tensor_data_layout": "Meta AI original pth",
        "attention.head_count_kv": config.n_head_kv,
        "attention.layer_norm_epsilon": config.number("rms_norm_eps"),
    }


CONVERSIONS = (
    Conversion("orion", ("OrionForCausalLM",), _orion, _orion_keys, general=False, defaults={"rms_norm_eps": 1e-5}),
    Conversion(
        "stablelm",
        ("StableLmForCausalLM", "StableLMEpochForCausalLM", "LlavaStableLMEpochForCausalLM"),
        _stablelm,
        _stablelm_keys,
        general=False,
        defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_parallel_residual": False},
    ),
    Conversion(
        "gptneox",
        ("GPTNeoXForCausalLM",),
        _gptneox,
        _gptneox_keys,
        general=False,
        defaults={"layer_norm_eps": 1e-5, "rotary_pct": 0.25},
    ),
)
