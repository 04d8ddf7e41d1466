"""Command R: a parallel block behind one LayerNorm without bias, logits times a scale; pairs of rope are neighbours."""

from functools import partial
from typing import Any

from tests.helpers.converter import head_size
from tests.helpers.families.conversion import family_file, rope_keys, sizes
from tests.helpers.families.family import ODD, SIZES, WINDOW, Family, rope
from tests.helpers.model_file import ModelFile


def _command_r(**more: Any) -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**(SIZES | more), logit_scale=0.3, rope_parameters=rope(1000.0)))


def _cohere2() -> Any:
    from transformers import Cohere2Config, Cohere2ForCausalLM

    layers = {"num_hidden_layers": 6, "sliding_window": WINDOW}  # the 4th sees everything, without rope
    return Cohere2ForCausalLM(Cohere2Config(**(ODD | layers), logit_scale=0.3, rope_parameters=rope(1000.0)))


def _file(model: Any) -> ModelFile:
    config = model.config
    arch = {"cohere": "command-r"}.get(config.model_type, config.model_type)
    keys = sizes(config) | rope_keys(config) | {"logit_scale": config.logit_scale, "rope.scaling.type": "none"}
    if arch == "cohere2":
        keys |= {"attention.sliding_window": config.sliding_window, "rope.dimension_count": head_size(config)}
        keys |= dict.fromkeys(("attention.key_length", "attention.value_length"), head_size(config))
    return family_file(model, arch, keys)


FAMILIES = {
    "command-r": Family("command-r", _command_r, _file),
    "command-r-plus": Family("command-r", partial(_command_r, use_qk_norm=True), _file, peer_layers=64),
    "cohere2": Family("cohere2", _cohere2, _file),
}
