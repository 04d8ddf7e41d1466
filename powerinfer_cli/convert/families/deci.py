"""Llama-Nemotron, DeciLM: what a search left of each layer is a list in config.json."""

from typing import Any

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import head_keys, turned_heads

__all__ = ["CONVERSIONS"]

STEP = 256


def _names(config: Config) -> Names:
    """A matrix may be what is left of attention."""
    return {**turned_heads(config), "self_attn.linear_attn": "attn_output"}


def _keys(config: Config) -> KeyValues:
    if "block_configs" in config:
        return head_keys(config) | _of_blocks(config, config.items("block_configs", dict, config.n_layer))
    keys = head_keys(config)
    if "num_key_value_heads_per_layer" in config:
        keys["attention.head_count_kv"] = config.items("num_key_value_heads_per_layer", int, config.n_layer)
    return keys


def _of_blocks(config: Config, blocks: list[dict[str, Any]]) -> KeyValues:
    heads, key_heads, widths = [], [], []
    for block in blocks:
        attention, ffn = Config(config.path, block.get("attention", {})), Config(config.path, block.get("ffn", {}))
        shared = attention.integer("n_heads_in_group", default=0)
        linear = attention.flag("replace_with_linear") and not shared
        heads.append(config.n_head if shared or linear else 0)
        key_heads.append(config.n_head // shared if shared else 0)
        widths.append(_width(ffn.number("ffn_mult", default=0.0), config.n_embd))
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": key_heads,
        "feed_forward_length": widths,
        "attention.key_length": config.n_embd // config.n_head,
        "attention.value_length": config.n_embd // config.n_head,
    }


def _width(factor: float, n_embd: int) -> int:
    """In whole steps."""
    return -(-int(2 * factor * n_embd / 3) // STEP) * STEP


CONVERSIONS = (
    Conversion("deci", ("DeciLMForCausalLM",), _names, _keys, defaults={"rms_norm_eps": 1e-6, "rope_theta": 10000.0}),
)
