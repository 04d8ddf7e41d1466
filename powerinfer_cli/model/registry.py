"""The architectures that run, by the name that a file gives."""

from difflib import get_close_matches

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import cohere, falcon, gemma, glm, gpt2, granite, llama, nemotron, olmo, phi, qwen, stablelm
from powerinfer_cli.model.tensors import Architecture

__all__ = ["ARCHITECTURES", "architecture_of"]

FAMILIES = (llama, nemotron, falcon, gpt2, qwen, gemma, phi, olmo, granite, cohere, stablelm, glm)
ARCHITECTURES: dict[str, Architecture] = {one.name: one for family in FAMILIES for one in family.ARCHITECTURES}


def architecture_of(gguf: GGUFFile) -> Architecture:
    """Raises PowerInferError: none is named, or one that does not run here."""
    name = gguf.get("general.architecture", str, "")
    if not name:
        raise PowerInferError(f"{gguf.path}: general.architecture is missing: the file does not describe a model")
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    known = ", ".join(ARCHITECTURES)
    nearest = get_close_matches(name, ARCHITECTURES, 1)
    hint = f"; the nearest that is: {nearest[0]}" if nearest else ""
    raise PowerInferError(f"{gguf.path}: architecture {name[:60]!r} is not supported{hint} (supported: {known})")
