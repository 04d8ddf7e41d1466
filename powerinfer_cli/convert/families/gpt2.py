"""GPT-2, whose matrices are input rows and output columns, and OPT."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.moves import turned_over

__all__ = ["CONVERSIONS"]

GPT2: Names = {
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": Part("attn_qkv", turned_over),
    "attn.c_proj": Part("attn_output", turned_over),
    "ln_2": "ffn_norm",
    "mlp.c_fc": Part("ffn_up", turned_over),
    "mlp.c_proj": Part("ffn_down", turned_over),
}
OPT: Names = {
    "model.decoder.embed_tokens": "token_embd",
    "model.decoder.embed_positions": "position_embd",
    "model.decoder.final_layer_norm": "output_norm",
    "lm_head": "output",
    "self_attn_layer_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "final_layer_norm": "ffn_norm",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
}


def _gpt2(config: Config) -> Names:
    return GPT2


def _with_front(config: Config, name: str) -> str:
    """The oldest files name no `transformer`."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def _gpt2_keys(config: Config) -> KeyValues:
    return {
        "block_count": config.n_layer,
        "context_length": config.integer("n_ctx", "n_positions"),
        "embedding_length": config.n_embd,
        "feed_forward_length": config.integer("n_inner", default=4 * config.n_embd),
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": config.number("layer_norm_epsilon"),
    }


def _opt(config: Config) -> Names:
    """The smallest file has no `model` in front."""
    return OPT


def _opt_front(config: Config, name: str) -> str:
    return f"model.{name}" if name.startswith("decoder.") else name


def _opt_keys(config: Config) -> KeyValues:
    """350M's norms behind the blocks, and its narrower embedding, are not computed."""
    if not config.flag("do_layer_norm_before", True):
        config.fail("do_layer_norm_before is false: such OPT models are not supported")
    return {
        "block_count": config.n_layer,
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": config.n_embd,
        "feed_forward_length": config.integer("ffn_dim"),
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": 1e-5,
    }


CONVERSIONS = (
    Conversion(
        "gpt2",
        ("GPT2LMHeadModel",),
        _gpt2,
        _gpt2_keys,
        renamed=_with_front,
        general=False,
        skipped=r".*\.attn\.bias",
        defaults={"layer_norm_epsilon": 1e-5, "n_positions": 1024, "tie_word_embeddings": True},
    ),
    Conversion(
        "opt",
        ("OPTForCausalLM",),
        _opt,
        _opt_keys,
        renamed=_opt_front,
        general=False,
        defaults={"tie_word_embeddings": True},
    ),
)
