"""The architectures that run, by the name that a file gives."""

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.contents import check_contents, check_kind, unsupported
from powerinfer_cli.model.families import (
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
    minicpm,
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
from powerinfer_cli.model.families.encoders import bert, eurobert, jina_bert, modern_bert, nomic_bert

__all__ = ["ARCHITECTURES", "architecture_of"]

FAMILIES = (
    *(llama, mistral, nemotron, falcon, gpt2, qwen, qwen_moe, shared_experts, smallthinker, gpt_oss),
    *(gemma, gemma4, phi, phi_moe, olmo, granite, cohere, stablelm, glm, bloom, mpt, apertus, deci, deepseek, llama4),
    *(minicpm, lfm2, qwen_next, mamba, nemotron_h),
    *(bert, nomic_bert, jina_bert, modern_bert, eurobert),
)
ARCHITECTURES: dict[str, Architecture] = {one.name: one for family in FAMILIES for one in family.ARCHITECTURES}


def architecture_of(gguf: GGUFFile) -> Architecture:
    """Raises PowerInferError: none is named, or one that does not run here, or the file holds no model."""
    name = gguf.get("general.architecture", str, "")
    check_contents(gguf, name)
    if not name:
        raise PowerInferError(f"{gguf.path}: general.architecture is missing: the file does not describe a model")
    if name not in ARCHITECTURES:
        raise unsupported(gguf, name, ARCHITECTURES)
    found = ARCHITECTURES[name]
    check_kind(gguf, name, experts=found.experts, latents=found.latents, recurrent=found.recurrent)
    return found
