"""GPT's descendants: LayerNorm with bias, GELU without gate, q, k and v in one matrix.

Positions are learned, rotated, or slopes of the scores (ALiBi).
"""

from typing import Any

from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.tiny_models import N_VOCAB


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=N_VOCAB, n_positions=256, n_embd=64, n_layer=4, n_head=4, **ids))


def _gptneox(**more: Any) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    parameters = rope(10000.0, partial_rotary_factor=0.5)  # the converter writes no base
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, **more, rope_parameters=parameters))


def _bloom() -> Any:
    """Six heads: slopes follow another rule where their number is no power of two."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=N_VOCAB, hidden_size=96, n_layer=4, n_head=6))


def _mpt() -> Any:
    from transformers import MptConfig, MptForCausalLM

    sizes = {"d_model": 64, "n_layers": 4, "n_heads": 4, "max_seq_len": 512}
    attention = {"clip_qkv": 0.8, "alibi_bias_max": 8}
    return MptForCausalLM(MptConfig(vocab_size=N_VOCAB, **sizes, attn_config=attention))


# llama.cpp computes the tanh form of GELU in all of these; GPT-NeoX's and MPT's weights were made with the exact one.
FAMILIES = {
    "gpt2": Family("gpt2", _gpt2),
    "gptneox": Family("gptneox", _gptneox),
    "gptneox-sequential": Family("gptneox", lambda: _gptneox(use_parallel_residual=False)),
    "bloom": Family("bloom", _bloom),
    "mpt": Family("mpt", _mpt),
}
