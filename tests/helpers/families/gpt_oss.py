"""gpt-oss, whose torch code has gates and ups in turn, and experts' weights turned over."""

from functools import partial
from typing import Any

from tests.helpers.families.family import SIZES, WINDOW, Family, rope

YARN = {"factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0}


def _gpt_oss(**parameters: Any) -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    own = {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 24, "sliding_window": WINDOW}
    parameters = rope(1000.0, **parameters)
    return GptOssForCausalLM(GptOssConfig(**(SIZES | own), rope_parameters=parameters, attn_implementation="eager"))


FAMILIES = {
    "gpt-oss": Family(
        "gpt-oss",
        partial(_gpt_oss, rope_type="yarn", truncate=False, **YARN),
        peer_differs="its YaRN begins and ends at whole pairs",
    ),
    "gpt-oss-short": Family("gpt-oss", _gpt_oss),
}
