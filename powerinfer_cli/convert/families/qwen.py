"""Qwen 2 and 3, Seed-OSS, Hunyuan: llama's names."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import LLAMA, llama_names

__all__ = ["CONVERSIONS", "HUNYUAN", "hunyuan_rope"]

HUNYUAN: Names = {
    **LLAMA,
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
}
WHOLE = 256 << 10  # tokens that Hunyuan's models are for, whatever config.json says


def _seed_oss(config: Config) -> Names:
    """What is called a norm behind attention is the one before the FFN."""
    return {**LLAMA, "post_attention_layernorm": "post_attention_norm"}


def _hunyuan(config: Config) -> Names:
    return HUNYUAN


def hunyuan_rope(config: Config, alpha: float) -> KeyValues:
    """alpha, where config.json has none, makes the base larger."""
    rope = Config(config.path, config.rope)
    if config.rope.get("rope_type") not in ("dynamic", "xdrope"):
        return {}
    dim = config.head_dim
    if dim < 4:
        config.fail(f"head_dim is {dim}")
    base = rope.number("rope_theta", default=10000.0) * rope.number("alpha", default=alpha) ** (dim / (dim - 2))
    found: KeyValues = {"rope.freq_base": base, "rope.scaling.type": "none", "rope.scaling.factor": 1.0}
    if config.rope.get("rope_type") == "dynamic":
        found |= {"rope.scaling.original_context_length": WHOLE, "context_length": WHOLE}
    return found


def _hunyuan_keys(config: Config) -> KeyValues:
    one = config.integer("num_experts", default=1) <= 1
    return hunyuan_rope(config, 50.0) | ({"expert_count": None} if one else {})


QWEN_DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
CONVERSIONS = (
    Conversion("qwen2", ("Qwen2ForCausalLM",), llama_names, defaults=QWEN_DEFAULTS),
    Conversion("qwen3", ("Qwen3ForCausalLM",), llama_names, defaults={**QWEN_DEFAULTS, "head_dim": 128}),
    Conversion(
        "hunyuan-dense", ("HunYuanDenseV1ForCausalLM",), _hunyuan, _hunyuan_keys, defaults={"rms_norm_eps": 1e-5}
    ),
    Conversion("seed_oss", ("SeedOssForCausalLM",), _seed_oss, defaults={**QWEN_DEFAULTS, "head_dim": 128}),
)
