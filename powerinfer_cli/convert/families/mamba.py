"""Mamba-2; Falcon-H1, whose multipliers are in the file's weights; what Granite 4 H and Nemotron-H have of Mamba-2."""

from functools import partial

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Change, Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import LLAMA
from powerinfer_cli.convert.keys import rope_keys
from powerinfer_cli.convert.moves import decay, without_channel

__all__ = ["CONVERSIONS", "WHOLE", "mamba_names"]

WHOLE = 1 << 20  # tokens of context: it has no end


def _column(numbers: Array) -> Array:
    return numbers.reshape(-1, 1)


def mamba_names(front: str, n_groups: int) -> Names:
    """front: the module's path. Norms are by group."""

    def by_group(numbers: Array) -> Array:
        return numbers.reshape(n_groups, numbers.shape[0] // max(1, n_groups))

    return {
        f"{front}.in_proj": "ssm_in",
        f"{front}.conv1d": Part("ssm_conv1d", without_channel),
        f"{front}.dt_bias": "ssm_dt.bias",
        f"{front}.A_log": Part("ssm_a", _column, decay),
        f"{front}.D": Part("ssm_d", _column),
        f"{front}.norm": Part("ssm_norm", by_group),
        f"{front}.out_proj": "ssm_out",
    }


def _mamba2(config: Config) -> Names:
    return {
        "backbone.embeddings": "token_embd",
        "backbone.norm_f": "output_norm",
        "lm_head": "output",
        "norm": "attn_norm",
        **mamba_names("mixer", config.integer("n_groups", default=1)),
    }


def _renamed(config: Config, name: str) -> str:
    """As Mamba-Codestral's files have it."""
    return name.removeprefix("model.") if name.startswith(("model.backbone", "model.lm_head")) else name


def _mamba2_keys(config: Config) -> KeyValues:
    """As wide as its inner size says, or twice the model's width."""
    inner = config.integer("intermediate_size", "d_inner", default=config.integer("expand", default=2) * config.n_embd)
    return {
        "block_count": config.n_layer,
        "context_length": WHOLE,
        "embedding_length": config.n_embd,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": config.number("layer_norm_epsilon", "rms_norm_eps", default=1e-5),
        "ssm.conv_kernel": config.integer("conv_kernel", "d_conv", default=4),
        "ssm.inner_size": inner,
        "ssm.state_size": config.integer("state_size", "d_state", default=128),
        "ssm.time_step_rank": inner // max(1, config.integer("head_dim", default=64)),
        "ssm.group_count": config.integer("n_groups", default=1),
    }


def _falcon(config: Config) -> Names:
    """Part by part, what goes into the mixer has a multiplier of its own."""
    into, ffn = config.number("attention_in_multiplier"), config.numbers("mlp_multipliers", 2)
    n_groups, inner = config.integer("mamba_n_groups"), config.integer("mamba_d_ssm")
    between = n_groups * config.integer("mamba_d_state")
    begins = np.cumsum([0, inner, inner, between, between]).tolist()
    by_part = list(zip(begins, [*begins[1:], None], config.numbers("ssm_multipliers", 5), strict=True))

    def in_parts(rows: Array) -> Array:
        made = times(config.number("ssm_in_multiplier"))(rows)
        for begin, end, factor in by_part:
            made[begin:end] *= made.dtype.type(factor)
        return made

    return {
        **{path: name for path, name in LLAMA.items() if not path.startswith("mlp.")},
        **mamba_names("mamba", n_groups),
        "model.embed_tokens": Part("token_embd", computed=times(config.number("embedding_multiplier"))),
        "lm_head": Part("output", computed=times(config.number("lm_head_multiplier"))),
        "model.final_layernorm": "output_norm",
        "pre_ff_layernorm.weight": "ffn_norm",
        "self_attn.q_proj": Part("attn_q", computed=times(into)),
        "self_attn.k_proj": Part("attn_k", computed=times(config.number("key_multiplier"), into)),
        "self_attn.v_proj": Part("attn_v", computed=times(into)),
        "self_attn.o_proj": Part("attn_output", computed=times(config.number("attention_out_multiplier"))),
        "mamba.in_proj": Part("ssm_in", computed=in_parts),
        "mamba.out_proj": Part("ssm_out", computed=times(config.number("ssm_out_multiplier"))),
        "feed_forward.gate_proj": Part("ffn_gate", computed=times(ffn[0])),
        "feed_forward.up_proj": "ffn_up",
        "feed_forward.down_proj": Part("ffn_down", computed=times(ffn[1])),
    }


def times(*factors: float) -> Change:
    """Each in its turn, in the numbers' own type."""

    def multiplied(numbers: Array) -> Array:
        made = numbers.copy()
        for factor in factors:
            made *= made.dtype.type(factor)
        return made

    return multiplied


def _falcon_keys(config: Config) -> KeyValues:
    inner = config.integer("mamba_d_ssm")
    return {
        "block_count": config.n_layer,
        "vocab_size": config.integer("vocab_size"),
        "context_length": config.integer("max_position_embeddings", default=0),
        "embedding_length": config.n_embd,
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_head_kv,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.number("layer_norm_epsilon", "rms_norm_eps", default=1e-5),
        "ssm.conv_kernel": config.integer("mamba_d_conv", default=4),
        "ssm.inner_size": inner,
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.time_step_rank": inner // max(1, config.integer("mamba_d_head", default=64)),
        "ssm.group_count": config.integer("mamba_n_groups"),
        "rope.freq_base": rope_keys(config).get("rope.freq_base"),
    }


OF_MODEL = partial(Conversion, general=False)
CONVERSIONS = (
    OF_MODEL("mamba2", ("Mamba2ForCausalLM",), _mamba2, _mamba2_keys, renamed=_renamed),
    OF_MODEL("falcon-h1", ("FalconH1ForCausalLM",), _falcon, _falcon_keys, defaults={"rope_theta": 100000.0}),
)
