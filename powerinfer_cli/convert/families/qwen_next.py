"""Qwen 3-Next, 3.5 and 3.6: gated delta nets. In 3.5 and 3.6, files have heads of values in the order in which those
of keys are repeated as a whole; layers that guess further tokens come behind the others.
"""

from functools import partial

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Change, Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import EXPERTS, GUESSING, LLAMA, norms_plus_one
from powerinfer_cli.convert.families.qwen_moe import width_keys
from powerinfer_cli.convert.keys import part_keys
from powerinfer_cli.convert.moves import both, decay, without_channel

__all__ = ["CONVERSIONS"]

MOST_SECTIONS = [11, 11, 10, 0]  # where config.json names none
GUESSING_PARTS = {
    "mtp.fc": "eh_proj",
    "mtp.pre_fc_norm_embedding": "enorm",
    "mtp.pre_fc_norm_hidden": "hnorm",
    "mtp.norm": "shared_head.norm",
}


def _common(config: Config) -> Names:
    return norms_plus_one(
        {**LLAMA, **EXPERTS, **GUESSING, "post_attention_layernorm": "post_attention_norm"}
        | {"enorm": "nextn.enorm", "hnorm": "nextn.hnorm", "shared_head.norm": "nextn.shared_head_norm"}
    )


def _next(config: Config) -> Names:
    return {
        **_common(config),
        "linear_attn.in_proj_qkvz": _apart(config),
        "linear_attn.in_proj_ba": "ssm_ba",
        "linear_attn.conv1d": Part("ssm_conv1d", without_channel),
        "linear_attn.A_log": Part("ssm_a", computed=decay),
        "linear_attn.dt_bias": "ssm_dt.bias",
        "linear_attn.norm": "ssm_norm",
        "linear_attn.out_proj": "ssm_out",
    }


def _apart(config: Config) -> tuple[Part, ...]:
    """Queries, keys, values and gates come key head by key head; the file has gates in a matrix of their own."""
    n_keys, dim = config.integer("linear_num_key_heads"), config.integer("linear_key_head_dim")
    values = config.integer("linear_num_value_heads") // max(1, n_keys) * config.integer("linear_value_head_dim")

    def qkv(rows: Array) -> Array:
        heads = rows.reshape(n_keys, 2 * (dim + values), *rows.shape[1:])
        parts = heads[:, :dim], heads[:, dim : 2 * dim], heads[:, 2 * dim : 2 * dim + values]
        return np.concatenate([part.reshape(-1, *rows.shape[1:]) for part in parts])

    def gates(rows: Array) -> Array:
        heads = rows.reshape(n_keys, 2 * (dim + values), *rows.shape[1:])
        return heads[:, 2 * dim + values :].reshape(-1, *rows.shape[1:])

    return Part("attn_qkv", qkv), Part("attn_gate", gates)


def _newer(config: Config) -> Names:
    n_keys, n_values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    size, before = config.integer("linear_value_head_dim"), 2 * n_keys * config.integer("linear_key_head_dim")

    def turned(size: int) -> Change:
        def move(rows: Array) -> Array:
            heads = rows.reshape(n_keys, n_values // max(1, n_keys), size, *rows.shape[1:])
            return heads.swapaxes(0, 1).reshape(rows.shape)

        return move

    def behind(rows: Array) -> Array:
        return np.concatenate([rows[:before], turned(size)(rows[before:])])

    def columns(array: Array) -> Array:
        return turned(size)(array.T).T

    return {
        **_common(config),
        "linear_attn.in_proj_qkv": Part("attn_qkv", behind),
        "linear_attn.in_proj_z": Part("attn_gate", turned(size)),
        "linear_attn.in_proj_a": Part("ssm_alpha", turned(1)),
        "linear_attn.in_proj_b": Part("ssm_beta", turned(1)),
        "linear_attn.conv1d": Part("ssm_conv1d", both(without_channel, behind)),
        "linear_attn.A_log": Part("ssm_a", turned(1), decay),
        "linear_attn.dt_bias": Part("ssm_dt.bias", turned(1)),
        "linear_attn.norm": "ssm_norm",
        "linear_attn.out_proj": Part("ssm_out", columns),
    }


def _keys(config: Config, *, sections: bool) -> KeyValues:
    guessing, n_layer = config.integer("guessing_layers"), config.n_layer
    keys = width_keys(config) | {
        "block_count": n_layer + guessing,
        "ssm.conv_kernel": config.integer("linear_conv_kernel_dim"),
        "ssm.state_size": config.integer("linear_key_head_dim"),
        "ssm.group_count": config.integer("linear_num_key_heads"),
        "ssm.time_step_rank": config.integer("linear_num_value_heads"),
        "ssm.inner_size": config.integer("linear_value_head_dim") * config.integer("linear_num_value_heads"),
        "nextn_predict_layers": guessing or None,
        **part_keys(config),
    }
    interval = config.integer("full_attention_interval", default=4)
    recurrent = [bool((i + 1) % interval) for i in range(n_layer)] if interval else []
    if "layer_types" in config:
        kinds = [kind == "linear_attention" for kind in config.items("layer_types", str, n_layer)]
        keys["attention.recurrent_layers"] = kinds + [False] * guessing
        interval = interval if kinds == recurrent else 0
    keys["full_attention_interval"] = interval or None  # unless it is not true
    if sections and "mrope_section" not in config.rope:
        keys["rope.dimension_sections"] = MOST_SECTIONS
    return keys


def _guessing(config: Config, name: str) -> str:
    """What guesses, as layers behind the last."""
    name = name.removeprefix("model.") if name.startswith("model.mtp.") else name
    if not name.startswith("mtp."):
        return name
    stem, _, ending = name.rpartition(".")
    if stem in GUESSING_PARTS:
        return f"model.layers.{config.n_layer}.{GUESSING_PARTS[stem]}.{ending}"
    parts = name.split(".", 3)
    if len(parts) == 4 and parts[1] == "layers" and parts[2].isdecimal():
        return f"model.layers.{config.n_layer + int(parts[2])}.{parts[3]}"
    return name


ALIKE = partial(
    Conversion,
    renamed=_guessing,
    guessing=True,
    defaults={"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "head_dim": 256, "partial_rotary_factor": 0.25},
)
CONVERSIONS = (
    ALIKE("qwen3next", ("Qwen3NextForCausalLM",), _next, partial(_keys, sections=False)),
    ALIKE(
        "qwen35",
        ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        _newer,
        partial(_keys, sections=True),
    ),
    ALIKE(
        "qwen35moe",
        ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        _newer,
        partial(_keys, sections=True),
    ),
)
