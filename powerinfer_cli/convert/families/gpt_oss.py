"""gpt-oss: experts in MXFP4 stay in it, their gates and ups taken apart row by row; others are turned over."""

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Change, Conversion, KeyValues, Names, Packed, Part
from powerinfer_cli.convert.families.names import LLAMA

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    **LLAMA,
    "self_attn.sinks": "attn_sinks.weight",
    "post_attention_layernorm": "post_attention_norm",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
}


def _every_other(first: int, step: int) -> Change:
    """Of the rows of each expert's weights or biases [experts, rows ...]."""
    return lambda array: array[:, first::step]


def _turned(first: int, step: int) -> Change:
    """Of [experts, columns, rows]: some rows, as rows."""
    return lambda array: array[..., first::step].swapaxes(1, 2)


def _packed(first: int, step: int) -> Packed:
    """Blocks [experts, rows, n, 16] of two neighbours a byte, and scales [experts, rows, n], to a scale and 16 bytes a
    block, of which byte j has numbers j and j + 16.
    """

    def pack(blocks: Array, scales: Array) -> Array:
        some, scales = blocks[:, first::step], scales[:, first::step]
        codes = np.stack([some & 15, some >> 4], -1).reshape(*some.shape[:-1], 32)
        mixed = codes[..., :16] | (codes[..., 16:] << 4)
        return np.concatenate([scales[..., None], mixed], -1)

    def shape(sizes: tuple[int, ...]) -> tuple[int, ...]:
        experts, rows, n_blocks, _ = sizes
        return experts, len(range(first, rows, step)), 32 * n_blocks

    return Packed(pack, shape)


def _names(config: Config) -> Names:
    """Gates and ups are in turn."""
    parts = (("ffn_gate_exps", 0), ("ffn_up_exps", 1))
    return {
        **NAMES,
        "mlp.experts.gate_up_proj_bias": tuple(Part(f"{name}.bias", _every_other(i, 2)) for name, i in parts),
        "mlp.experts.gate_up_proj": tuple(Part(f"{name}.weight", _turned(i, 2)) for name, i in parts),
        "mlp.experts.down_proj": Part("ffn_down_exps.weight", _turned(0, 1)),
        "mlp.experts.gate_up_proj_blocks": tuple(
            Part(f"{name}.weight", beside="mlp.experts.gate_up_proj_scales", packed=_packed(i, 2)) for name, i in parts
        ),
        "mlp.experts.down_proj_blocks": Part(
            "ffn_down_exps.weight", beside="mlp.experts.down_proj_scales", packed=_packed(0, 1)
        ),
    }


def _keys(config: Config) -> KeyValues:
    return {
        "attention.sliding_window": config.integer("sliding_window"),
        "expert_feed_forward_length": config.integer("intermediate_size"),
    }


CONVERSIONS = (
    Conversion(
        "gpt-oss",
        ("GptOssForCausalLM",),
        _names,
        _keys,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 150000.0, "sliding_window": 128},
    ),
)
