"""GPT's descendants: LayerNorm with bias, GELU without gate, q, k and v in one matrix.

Positions are learned, rotated, or slopes of the scores (ALiBi).
"""

from typing import Any

from torch import Tensor

from tests.helpers.families.conversion import family_file
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB

NAMES = {"lm_head": "output", "embed_out": "output"} | {
    f"transformer.{name}": target
    for name, target in {
        "wte": "token_embd",
        "wpe": "position_embd",
        "word_embeddings": "token_embd",
        "word_embeddings_layernorm": "token_embd_norm",
        "ln_f": "output_norm",
        "norm_f": "output_norm",
    }.items()
}
GPT2_NAMES = NAMES | {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
NEOX_NAMES = NAMES | {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
MPT_NAMES = NAMES | {
    "norm_1": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "norm_2": "ffn_norm",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
}


def _keys(width: int, n_layer: int, n_head: int, n_ctx: int, eps: float, n_ff: int = 0) -> dict[str, Any]:
    return {
        "vocab_size": N_VOCAB,
        "context_length": n_ctx,
        "embedding_length": width,
        "feed_forward_length": n_ff or 4 * width,
        "block_count": n_layer,
        "attention.head_count": n_head,
        "attention.layer_norm_epsilon": eps,
    }


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=N_VOCAB, n_positions=256, n_embd=64, n_layer=4, n_head=4, **ids))


def _gpt2_file(model: Any) -> ModelFile:
    """Its matrices are input rows, output columns."""

    def change(target: str, weight: Tensor) -> Tensor:
        turned = target.startswith("blk.") and weight.ndim == 2
        return weight.T if turned else weight

    c = model.config
    keys = _keys(c.n_embd, c.n_layer, c.n_head, c.n_positions, c.layer_norm_epsilon)
    return family_file(model, "gpt2", keys, GPT2_NAMES, change)


def _gptneox(**more: Any) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    parameters = rope(10000.0, partial_rotary_factor=0.5)  # the converter writes no base
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, **more, rope_parameters=parameters))


def _by_parts(n_head: int) -> Any:
    """q, k and v of a head lie together in the model, in the file all heads' q, then k, then v."""

    def change(target: str, weight: Tensor) -> Tensor:
        if "attn_qkv" not in target:
            return weight
        return weight.unflatten(0, (n_head, 3, -1)).transpose(0, 1).flatten(0, 2)

    return change


def _gptneox_file(model: Any) -> ModelFile:
    c = model.config
    n_head = c.num_attention_heads
    n_ctx, n_ff = c.max_position_embeddings, c.intermediate_size
    keys = _keys(c.hidden_size, c.num_hidden_layers, n_head, n_ctx, c.layer_norm_eps, n_ff)
    keys |= {"use_parallel_residual": c.use_parallel_residual, "rope.dimension_count": 8}
    return family_file(model, "gptneox", keys, NEOX_NAMES, _by_parts(n_head))


def _bloom() -> Any:
    """Six heads: slopes follow another rule where their number is no power of two."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=N_VOCAB, hidden_size=96, n_layer=4, n_head=6))


def _bloom_file(model: Any) -> ModelFile:
    c = model.config
    keys = _keys(c.hidden_size, c.n_layer, c.n_head, 512, c.layer_norm_epsilon) | {"attention.head_count_kv": c.n_head}
    return family_file(model, "bloom", keys, NEOX_NAMES, _by_parts(c.n_head))


def _mpt() -> Any:
    from transformers import MptConfig, MptForCausalLM

    sizes = {"d_model": 64, "n_layers": 4, "n_heads": 4, "max_seq_len": 512}
    attention = {"clip_qkv": 0.8, "alibi_bias_max": 8}
    return MptForCausalLM(MptConfig(vocab_size=N_VOCAB, **sizes, attn_config=attention))


def _mpt_file(model: Any) -> ModelFile:
    c = model.config
    keys = _keys(c.d_model, c.n_layers, c.n_heads, c.max_seq_len, 1e-5) | {
        "attention.clamp_kqv": c.attn_config.clip_qkv,
        "attention.max_alibi_bias": float(c.attn_config.alibi_bias_max),
    }
    return family_file(model, "mpt", keys, MPT_NAMES)


# llama.cpp computes the tanh form of GELU in all of these; GPT-NeoX's and MPT's weights were made with the exact one.
FAMILIES = {
    "gpt2": Family("gpt2", _gpt2, _gpt2_file),
    "gptneox": Family("gptneox", _gptneox, _gptneox_file),
    "gptneox-sequential": Family("gptneox", lambda: _gptneox(use_parallel_residual=False), _gptneox_file),
    "bloom": Family("bloom", _bloom, _bloom_file),
    "mpt": Family("mpt", _mpt, _mpt_file),
}
