"""The classes of checkpoints that can be converted, by the name that config.json gives them."""

from difflib import get_close_matches

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion
from powerinfer_cli.convert.families import (
    apertus,
    bloom,
    cohere,
    deci,
    deepseek,
    falcon,
    gemma,
    gemma4,
    glm,
    gpt2,
    gpt_oss,
    granite,
    lfm2,
    llama,
    llama4,
    mamba,
    mistral,
    mpt,
    nemotron,
    nemotron_h,
    olmo,
    phi,
    phi_moe,
    qwen,
    qwen_moe,
    qwen_next,
    shared_experts,
    smallthinker,
    stablelm,
)

__all__ = ["CONVERSIONS", "conversion_of"]
from powerinfer_cli.convert.families.encoders import bert, eurobert, jina_bert, modern_bert, nomic_bert

FAMILIES = (
    *(llama, mistral, nemotron, falcon, gpt2, qwen, qwen_moe, shared_experts, smallthinker, gpt_oss),
    *(gemma, gemma4, phi, phi_moe, olmo, granite, cohere, stablelm, glm, bloom, mpt, apertus, deci, deepseek, llama4),
    *(lfm2, qwen_next, mamba, nemotron_h),
    *(bert, nomic_bert, jina_bert, modern_bert, eurobert),
)
CONVERSIONS: dict[str, list[Conversion]] = {}
for _family in FAMILIES:
    for _one in _family.CONVERSIONS:
        for _name in _one.classes:
            CONVERSIONS.setdefault(_name, []).append(_one)


def conversion_of(config: Config) -> Conversion:
    """Raises PowerInferError: config.json names no class, or none that is known."""
    if not config.classes:
        config.fail("architectures is missing or empty: it should name the model's class")
    for name in config.classes:
        for conversion in CONVERSIONS.get(name, ()):
            if conversion.fits(config.with_defaults(conversion.defaults)):
                return conversion
    code = "; its own code is not run" if config.runs_code else ""
    near = get_close_matches(config.classes[0][:60], CONVERSIONS, n=5, cutoff=0.0)
    known = f"{len(CONVERSIONS)} classes, {', '.join(near)} among them"
    return config.fail(f"models of class {config.classes[0][:60]!r} cannot be converted{code}; known are {known}")
