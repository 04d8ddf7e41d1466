"""Apertus: halves turn, so that nothing is reordered; the activation's numbers become keys, one a layer."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, Names
from powerinfer_cli.convert.families.names import LLAMA, head_keys

__all__ = ["CONVERSIONS"]

NAMES: Names = {**LLAMA, "attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"}


def _names(config: Config) -> Names:
    return NAMES


CONVERSIONS = (
    Conversion(
        "apertus",
        ("ApertusForCausalLM",),
        _names,
        head_keys,
        told={f"mlp.act_fn.{name}": f"/xielu.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")},
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 12000000.0},
    ),
)
