"""Blocks with LayerNorm that has a bias: StableLM, StarCoder 2, Nemotron."""

from functools import partial
from typing import Any

from tests.helpers.families.family import ODD, SIZES, Family, rope


def _stablelm(**more: Any) -> Any:
    from transformers import StableLmConfig, StableLmForCausalLM

    parameters = rope(10000.0, partial_rotary_factor=0.5)  # the converter writes no base
    return StableLmForCausalLM(StableLmConfig(**ODD, **more, rope_parameters=parameters))


def _starcoder2() -> Any:
    """The released models' window of 4096 is in no key: files of it see everything."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    return Starcoder2ForCausalLM(Starcoder2Config(**SIZES, rope_parameters=rope(1000.0)))


def _nemotron(**more: Any) -> Any:
    from transformers import NemotronConfig, NemotronForCausalLM

    parameters = rope(1000.0, partial_rotary_factor=0.5)
    return NemotronForCausalLM(NemotronConfig(**SIZES, **more, rope_parameters=parameters))


FAMILIES = {
    "stablelm": Family("stablelm", lambda: _stablelm(use_qkv_bias=True)),
    "stablelm-2-12b": Family("stablelm", lambda: _stablelm(qk_layernorm=True, use_parallel_residual=True)),
    "starcoder2": Family("starcoder2", _starcoder2),
    "nemotron": Family("nemotron", _nemotron, norm_mean=0.0),
    "nemotron-biases": Family("nemotron", partial(_nemotron, attention_bias=True, mlp_bias=True), norm_mean=0.0),
}
