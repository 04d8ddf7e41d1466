"""Gemma: GeGLU of the tanh form, norms' weights plus 1, embeddings times the root of their width (no key says so)."""

from collections.abc import Callable
from typing import Any

from tests.helpers.families.family import ODD, SIZES, WINDOW, Family, rope

HEAD = {"head_dim": 24}
WINDOWED = {"query_pre_attn_scalar": 24, "sliding_window": WINDOW}


def _gemma() -> Any:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(**SIZES, **HEAD, rope_parameters=rope(10000.0)))


def _gemma2(**more: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}
    return Gemma2ForCausalLM(Gemma2Config(**(SIZES | HEAD | WINDOWED | caps | more), rope_parameters=rope(10000.0)))


def _gemma3(full: dict[str, Any], sizes: dict[str, Any] = SIZES, **more: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    bases = {"full_attention": full, "sliding_attention": rope(500.0)}
    layers = {"num_hidden_layers": 7}  # the 6th sees everything
    return Gemma3ForCausalLM(Gemma3TextConfig(**(sizes | HEAD | WINDOWED | layers | more), rope_parameters=bases))


def _family(arch: str, build: Callable[..., Any]) -> Family:
    return Family(arch, build, norm_mean=0.0, embedding=0.06)


FAMILIES = {
    "gemma": _family("gemma", _gemma),
    "gemma2": _family("gemma2", _gemma2),
    "gemma3": _family("gemma3", lambda: _gemma3(rope(5000.0))),
    "gemma3-linear": _family(
        "gemma3", lambda: _gemma3(rope(5000.0, rope_type="linear", factor=4.0), ODD, final_logit_softcapping=1.5)
    ),
}
# Scores' scale follows from the width instead of the head's; the numbers of layers alone tell these models.
SCALE = {"query_pre_attn_scalar": 64 // 4}
DEEP = {
    "gemma2-27b": _family("gemma2", lambda: _gemma2(**SCALE, num_hidden_layers=46)),
    "gemma3-27b": _family("gemma3", lambda: _gemma3(rope(5000.0), **SCALE, num_hidden_layers=62)),
}
