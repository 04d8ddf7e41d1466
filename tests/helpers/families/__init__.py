"""Families of architectures: tiny random torch models, and the files that llama.cpp's converter makes of them."""

from functools import cache

from tests.helpers.families import (
    cohere,
    deepseek,
    experts,
    gemma,
    gemma4,
    gpt,
    gpt_oss,
    layer_norm,
    llama4,
    llama_like,
    mamba,
    olmo,
    phi,
    recurrent,
    shared_experts,
    small_changes,
    smallthinker,
    twins,
)
from tests.helpers.families.family import PROMPT, WINDOW, Family, TinyFamily, tiny

__all__ = ["DEEP", "EXPERTS", "FAMILIES", "PROMPT", "WINDOW", "Family", "TinyFamily", "peer_family", "tiny_family"]

GROUPS = (
    gemma,
    gemma4,
    llama_like,
    experts,
    shared_experts,
    smallthinker,
    gpt_oss,
    deepseek,
    llama4,
    recurrent,
    mamba,
    phi,
    olmo,
    cohere,
    layer_norm,
    small_changes,
    gpt,
    twins,
)
FAMILIES: dict[str, Family] = {name: family for group in GROUPS for name, family in group.FAMILIES.items()}
# Mixtures of experts.
EXPERTS: dict[str, Family] = {
    name: family
    for group in (experts, shared_experts, smallthinker, gpt_oss, deepseek, llama4)
    for name, family in group.FAMILIES.items()
} | gemma4.EXPERTS
# Forms that a file tells by nothing but its many layers.
DEEP: dict[str, Family] = gemma.DEEP | twins.DEEP


@cache
def tiny_family(name: str) -> TinyFamily:
    """A family's model and file, built once."""
    return tiny(name, (FAMILIES | DEEP)[name])


@cache
def peer_family(name: str) -> TinyFamily:
    """The same with as many layers as llama.cpp asks for."""
    family = (FAMILIES | DEEP)[name]
    layers = family.peer_layers
    return tiny(name, family, num_hidden_layers=layers) if layers else tiny_family(name)
