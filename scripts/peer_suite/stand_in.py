"""A small model for llama.cpp's own server tests, in place of those that they would download."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, Tensor, WritableValue, open_gguf, write_gguf
from powerinfer_cli.opening.bundled import BUNDLED

__all__ = ["write_cache", "write_ranker", "write_stand_in"]

SHARPNESS = 64.0  # silu(64 x) / 64 is relu(x) but for a few thousandths: other programs know SiLU only in a llama
CONTEXT = 2048
POOLING = 1  # embeddings are means, as a completion model's own choice is none
ROLES = range(259, 263)  # the bundled model's tokens of roles, from whose names programs would guess a template
ROUTED = (
    "ggml-org/tinygemma3-GGUF:Q8_0",
    "ggml-org/test-model-stories260K:F32",
    "ggml-org/test-model-stories260K-infill:F32",
)
FILL_IN_THE_MIDDLE = {"fim_pre": 259, "fim_suf": 260, "fim_mid": 261}


def write_stand_in(path: Path) -> None:
    """The bundled story model as an ordinary llama in F32 that any program runs, with no chat template of its own.

    It has a longer context than it was trained for, and tokens to fill in the middle, both as the tests expect.
    """
    source = open_gguf(Path(str(files("powerinfer_cli") / "bundled" / BUNDLED)))
    away = ("general.architecture", "general.file_type", "powerinfer.", "tokenizer.chat_template")
    metadata: dict[str, WritableValue] = {
        key: plain(value) for key, value in source.metadata.items() if not key.startswith(away)
    }
    names = list(source.metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] = [f"<{i}>" if i in ROLES else name for i, name in enumerate(names)]
    metadata["llama.context_length"] = CONTEXT
    metadata["llama.pooling_type"] = POOLING
    metadata |= {f"tokenizer.ggml.{name}_token_id": token for name, token in FILL_IN_THE_MIDDLE.items()}
    tensors = [dense(tensor) for tensor in source.tensors.values() if ".fc1." not in tensor.name]
    write_gguf(
        path,
        arch="llama",
        metadata=metadata,
        tensors=[(name, values, GGMLType.F32) for name, values in tensors if ".fc2." not in name],
        sparse=False,
    )


def write_ranker(path: Path) -> None:
    """A tiny reranker of random weights, with words: which document it likes is chance."""
    from tests.helpers.families.encoders import tiny_encoder, with_words  # builds it in torch

    with_words(tiny_encoder("bge-reranker").file).write(path)


def write_cache(folder: Path, model: Path) -> None:
    """A cache of the hub's that holds `model` as each of those that the router's tests ask for."""
    for name in ROUTED:
        owner, _, rest = name.partition("/")
        repository, _, kind = rest.partition(":")
        snapshot = folder / f"models--{owner}--{repository}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        link = snapshot / f"{repository.removesuffix('-GGUF')}-{kind}.gguf"
        if not link.exists():
            link.symlink_to(model)


def plain(value: Any) -> WritableValue:
    """Metadata as the writer takes it."""
    return list(value) if isinstance(value, tuple) else value


def dense(tensor: Tensor) -> tuple[str, npt.NDArray[np.float32]]:
    """Name and numbers of the tensor in an ordinary llama."""
    values = np.array(tensor.to_float32(), np.float32).reshape(tensor.shape)
    if ".ffn_gate." in tensor.name:
        return tensor.name, values * np.float32(SHARPNESS)
    if ".ffn_down_t." in tensor.name:
        return tensor.name.replace("ffn_down_t", "ffn_down"), np.ascontiguousarray(values.T) / np.float32(SHARPNESS)
    return tensor.name, values
