"""Nemotron-H: each layer is Mamba-2, attention or an FFN, as a list or a word in config.json says."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.mamba import WHOLE, mamba_names
from powerinfer_cli.convert.moves import neighbours

__all__ = ["CONVERSIONS"]

SIGMOID = 2
KINDS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe", "linear_attention": "mamba"}
KINDS["full_attention"] = "attention"


def _names(config: Config) -> Names:
    """Nothing turns; llama.cpp reorders queries and keys all the same."""
    turned = neighbours(config.head_dim)
    return {
        "backbone.embeddings": "token_embd",
        "backbone.norm_f": "output_norm",
        "lm_head": "output",
        "norm": "attn_norm",
        **mamba_names("mixer", config.integer("n_groups")),
        **{f"mixer.{x}_proj": Part(f"attn_{x}", turned) for x in "qk"},
        "mixer.v_proj": "attn_v",
        "mixer.o_proj": "attn_output",
        "mixer.up_proj": "ffn_up",
        "mixer.down_proj": "ffn_down",
        "mixer.gate": "ffn_gate_inp",
        "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
        "mixer.experts.*.up_proj": "ffn_up_exps",
        "mixer.experts.*.down_proj": "ffn_down_exps",
        "mixer.experts.up_proj": "ffn_up_exps.weight",
        "mixer.experts.down_proj": "ffn_down_exps.weight",
        "mixer.fc1_latent_proj": "ffn_latent_down",
        "mixer.fc2_latent_proj": "ffn_latent_up",
        "mixer.shared_experts.up_proj": "ffn_up_shexp",
        "mixer.shared_experts.down_proj": "ffn_down_shexp",
    }


def _renamed(config: Config, name: str) -> str:
    """As newer files have it."""
    return f"backbone.{name.removeprefix('model.')}" if name.startswith("model.") else name


def _kinds(config: Config) -> list[str]:
    told = config.first("hybrid_override_pattern", "layers_block_type", "layer_types")
    kinds = [KINDS.get(kind, kind) for kind in told if isinstance(kind, str)] if isinstance(told, str | list) else []
    if len(kinds) != config.n_layer or not set(kinds) <= set(KINDS.values()):
        config.fail("hybrid_override_pattern and layers_block_type do not say what each layer is")
    return kinds


def _keys(config: Config) -> KeyValues:
    kinds, moe = _kinds(config), _mixed(config)
    width = config.integer("moe_intermediate_size") if moe else config.integer("intermediate_size")
    n_heads = config.integer("mamba_num_heads")
    keys: KeyValues = {
        "attention.head_count_kv": [config.n_head_kv if kind == "attention" else 0 for kind in kinds],
        "feed_forward_length": [width if kind in ("mlp", "moe") else 0 for kind in kinds],
        "ssm.conv_kernel": config.integer("conv_kernel", default=4),
        "ssm.state_size": config.integer("ssm_state_size"),
        "ssm.group_count": config.integer("n_groups"),
        "ssm.time_step_rank": n_heads,
        "ssm.inner_size": n_heads * config.integer("mamba_head_dim"),
        "attention.layer_norm_epsilon": config.number("layer_norm_epsilon"),
        "rope.scaling.finetuned": False,
        "rope.dimension_count": config.n_embd // config.n_head,
        "context_length": WHOLE,
        "vocab_size": config.integer("vocab_size"),
    }
    if not moe:  # config.json may have numbers of experts all the same
        return keys | {f"expert_{name}": None for name in ("count", "used_count", "group_count")}
    if config.get("moe_latent_size") is not None:
        keys |= {"moe_latent_size": config.integer("moe_latent_size")}
    return keys | {
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": config.integer("moe_shared_expert_intermediate_size"),
        "expert_shared_count": config.integer("n_shared_experts"),
        "expert_weights_norm": config.flag("norm_topk_prob"),
        "expert_weights_scale": float(config.number("routed_scaling_factor")),
        "expert_group_count": config.integer("n_group"),
    }


def _mixed(config: Config) -> bool:
    """Whether it has experts."""
    return "num_experts_per_tok" in config and "moe" in _kinds(config)


CLASSES = ("NemotronHForCausalLM",)
CONVERSIONS = (
    Conversion("nemotron_h_moe", CLASSES, _names, _keys, renamed=_renamed, skipped=r"mtp\..*", fits=_mixed),
    Conversion("nemotron_h", CLASSES, _names, _keys, renamed=_renamed),
)
