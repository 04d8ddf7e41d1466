"""OLMo: norms without weights. Norms behind the blocks alone, and of q and k: OLMo 2 and 3 over their full width,
EXAONE 4 by head.
"""

import math
from functools import partial
from typing import Any

from tests.helpers.families.family import ODD, SIZES, WINDOW, Family, rope

LAYERS = {"num_hidden_layers": 6, "sliding_window": WINDOW, "max_position_embeddings": 128}  # the 4th sees everything
GAIN = 0.1 * math.log(4) + 1
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def _olmo(**more: Any) -> Any:
    from transformers import OlmoConfig, OlmoForCausalLM

    return OlmoForCausalLM(OlmoConfig(**SIZES, **more, rope_parameters=rope(1000.0)))


def _olmo2() -> Any:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    return Olmo2ForCausalLM(Olmo2Config(**SIZES, rope_parameters=rope(1000.0)))


def _olmo3() -> Any:
    """attention_factor is what follows from the factor anyway, as in the released models: llama.cpp knows no other."""
    from transformers import Olmo3Config, Olmo3ForCausalLM

    yarn = rope(5000.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=32, attention_factor=GAIN)
    bases = {"full_attention": yarn, "sliding_attention": rope(5000.0)}
    return Olmo3ForCausalLM(Olmo3Config(**(ODD | LAYERS), rope_parameters=bases))


def _exaone4(**more: Any) -> Any:
    from transformers import Exaone4Config, Exaone4ForCausalLM

    parameters = rope(500.0, rope_type="llama3", **LLAMA3)
    return Exaone4ForCausalLM(Exaone4Config(**(SIZES | LAYERS | more), rope_parameters=parameters))


def _exaone4_global() -> Any:
    """The 1.2B's: no windows, and rope in every layer."""
    return _exaone4(sliding_window=None, num_hidden_layers=4, layer_types=["full_attention"] * 4)


FAMILIES = {
    "olmo": Family("olmo", _olmo),
    "olmo-clipped": Family("olmo", partial(_olmo, clip_qkv=0.8, tie_word_embeddings=True)),
    "olmo2": Family("olmo2", _olmo2),
    "olmo3": Family("olmo2", _olmo3),
    "exaone4": Family("exaone4", _exaone4, peer_layers=64),
    "exaone4-global": Family("exaone4", _exaone4_global),
}
