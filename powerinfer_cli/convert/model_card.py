"""What a checkpoint's folder says of the model besides its numbers: names, licence, and how it is to be sampled.

Read by the `gguf` package, as llama.cpp's converter reads it: README.md's head, config.json, generation_config.json,
and what the folder's name tells.
"""

from collections.abc import Iterable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from powerinfer_cli.gguf_io import Tensor

__all__ = ["general_info"]

QUANTIZATION_VERSION = 2  # of ggml's blocks
MOST_CARD = 1 << 20  # bytes
LARGEST = 1 << 31


def general_info(folder: Path, tensors: Iterable[Tensor]) -> dict[str, Any]:
    """Keys and values. What cannot be understood is left out: it is for people only."""
    import gguf

    total, shared, of_expert, n_experts = _sizes(tensors)
    about = gguf.Metadata()
    if all(_is_small(folder / name) for name in ("README.md", "config.json", "generation_config.json")):
        with suppress(Exception):  # YAML of all kinds, and code that expects what people usually write there
            about = gguf.Metadata.load(None, folder, None, total)
    about.name = about.name or folder.resolve().name
    about.size_label = about.size_label or gguf.size_label(total, shared, of_expert, n_experts)
    writer = gguf.GGUFWriter(None, "")
    with suppress(Exception):
        about.set_gguf_meta_model(writer)
    told = {key: value.value for key, value in writer.kv_data[0].items() if _is_plain(value.value)}
    told.pop("general.architecture", None)
    return {"general.type": "model", **told, "general.quantization_version": QUANTIZATION_VERSION}


def _is_small(path: Path) -> bool:
    return not path.exists() or (path.is_file() and path.stat().st_size <= MOST_CARD)


def _is_plain(value: object) -> bool:
    """A text, a number, or a list of texts: and one that a file can hold."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) for item in value)
    return isinstance(value, str | float | bool) or (isinstance(value, int) and -LARGEST <= value < LARGEST)


def _sizes(tensors: Iterable[Tensor]) -> tuple[int, int, int, int]:
    """Numbers in all, those of no expert, those of one expert, and how many experts there are."""
    total = shared = of_expert = experts = stacks = 0
    for tensor in tensors:
        size = prod(tensor.shape)
        total += size
        if "_exps." in tensor.name and len(tensor.shape) > 2:
            of_expert += size // max(1, tensor.shape[0])
            experts, stacks = experts + tensor.shape[0], stacks + 1
        else:
            shared += size
    return total, shared, of_expert, experts // stacks if stacks else 0
