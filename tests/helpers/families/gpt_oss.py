"""gpt-oss, whose torch code has gates and ups in turn, and experts' weights turned over."""

from functools import partial
from typing import Any

from torch import Tensor

from tests.helpers.families.conversion import rope_keys, sizes, windows
from tests.helpers.families.experts import NAMES, experts_file
from tests.helpers.families.family import SIZES, WINDOW, Family, rope
from tests.helpers.model_file import ModelFile

YARN = {"factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0}
OSS_NAMES = NAMES | {
    "self_attn.sinks": "attn_sinks",
    "post_attention_layernorm": "post_attention_norm",
    "mlp.router": "ffn_gate_inp",
}


def _gpt_oss(**parameters: Any) -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    own = {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 24, "sliding_window": WINDOW}
    parameters = rope(1000.0, **parameters)
    return GptOssForCausalLM(GptOssConfig(**(SIZES | own), rope_parameters=parameters, attn_implementation="eager"))


def _change(target: str, weight: Tensor) -> Tensor:
    """Of what torch has as [E, columns, rows], rows, gates before ups."""
    if "_exps." not in target:
        return weight
    if target.endswith(".weight"):
        weight = weight.transpose(1, 2)
    return weight.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2) if "gate_up" in target else weight


def _file(model: Any) -> ModelFile:
    config = model.config
    keys = (
        sizes(config) | rope_keys(config) | windows(config) | {"expert_feed_forward_length": config.intermediate_size}
    )
    del keys["attention.sliding_window_pattern"]  # the converter writes none
    return experts_file(model, "gpt-oss", keys, OSS_NAMES, _change, (6, 2))


FAMILIES = {
    "gpt-oss": Family(
        "gpt-oss",
        partial(_gpt_oss, rope_type="yarn", truncate=False, **YARN),
        _file,
        peer_differs="its YaRN begins and ends at whole pairs",
    ),
    "gpt-oss-short": Family("gpt-oss", _gpt_oss, _file),
}
