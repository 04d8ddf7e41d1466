"""GLM 4 and 4.5: their rope turns neighbours, or halves, in their own code as well: nothing is reordered."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Vocabulary
from powerinfer_cli.convert.families.names import EXPERTS, GUESSING, LLAMA, expert_keys
from powerinfer_cli.convert.keys import part_keys

__all__ = ["CONVERSIONS"]

GLM4: Names = {
    **LLAMA,
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "mlp.gate_up_proj": "ffn_up",
}
GLM4MOE: Names = {**LLAMA, **EXPERTS, **GUESSING, "post_attention_layernorm": "post_attention_norm"}
SIGMOID = 2


def _glm4(config: Config) -> Names:
    return GLM4


def _glm4moe(config: Config) -> Names:
    return GLM4MOE


def _moe_keys(config: Config) -> KeyValues:
    guessing = config.integer("guessing_layers")
    return {
        "block_count": config.n_layer + guessing,
        **part_keys(config),
        **expert_keys(config),
        "expert_gating_func": SIGMOID,
        "nextn_predict_layers": guessing or None,
    }


END = "<|endoftext|>"
DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
CONVERSIONS = (
    Conversion(
        "glm4",
        ("Glm4ForCausalLM",),
        _glm4,
        part_keys,
        defaults=DEFAULTS,
        vocabulary=Vocabulary({"eos": END, "eot": "<|user|>", "unk": END, "bos": END}, ("glm4", "chatglm-bpe")),
    ),
    Conversion(
        "glm4moe",
        ("Glm4MoeForCausalLM",),
        _glm4moe,
        _moe_keys,
        guessing=True,
        defaults={**DEFAULTS, "norm_topk_prob": True},
        vocabulary=Vocabulary(
            {"bos": "[gMASK]", "eot": "<|user|>", "unk": END, "eom": "<|observation|>"}, ("glm4", "chatglm-bpe")
        ),
    ),
)
