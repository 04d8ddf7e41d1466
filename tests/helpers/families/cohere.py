"""Command R: a parallel block behind one LayerNorm without bias, logits times a scale; pairs of rope are neighbours."""

from functools import partial
from typing import Any

from tests.helpers.families.family import ODD, SIZES, WINDOW, Family, rope


def _command_r(**more: Any) -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**(SIZES | more), logit_scale=0.3, rope_parameters=rope(1000.0)))


def _cohere2() -> Any:
    from transformers import Cohere2Config, Cohere2ForCausalLM

    layers = {"num_hidden_layers": 6, "sliding_window": WINDOW}  # the 4th sees everything, without rope
    return Cohere2ForCausalLM(Cohere2Config(**(ODD | layers), logit_scale=0.3, rope_parameters=rope(1000.0)))


FAMILIES = {
    "command-r": Family("command-r", _command_r),
    "command-r-plus": Family("command-r", partial(_command_r, use_qk_norm=True), peer_layers=64),
    "cohere2": Family("cohere2", _cohere2),
}
