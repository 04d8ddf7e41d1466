"""Tiny models as the checkpoints that others publish, and what the package's converter makes of them."""

import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import open_checkpoint
from powerinfer_cli.convert.converting import convert_checkpoint
from powerinfer_cli.convert.out_type import OutType
from tests.helpers.model_file import ModelFile


def save_checkpoint(model: Any, folder: Path) -> None:
    """As transformers saves it, or as the model itself knows that its checkpoints are published."""
    from safetensors.torch import save_file

    published = getattr(model, "published", None)
    if published is None:
        with redirect_stderr(StringIO()):  # a bar
            model.save_pretrained(folder)
        return
    config, tensors = published()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def converted(model: Any) -> ModelFile:
    """The model's file, of float32 and without a vocabulary."""
    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(model, Path(scratch))
        made = convert_checkpoint(open_checkpoint(Path(scratch)), OutType.F32, vocabulary=False).gguf
        tensors = {name: tensor.to_float32().copy() for name, tensor in made.tensors.items()}
    arch = str(made.metadata["general.architecture"])
    metadata = {key: value for key, value in made.metadata.items() if not key.startswith("general.")}
    return ModelFile(arch, metadata, tensors)


def tiny_checkpoints() -> dict[str, Callable[[], Any]]:
    """By name, every case of every family: what builds its torch model."""
    from tests.helpers.families import FAMILIES, tiny_family
    from tests.helpers.tiny_models import CASES, tiny_model

    def of_case(name: str) -> Callable[[], Any]:
        return lambda: tiny_model(name).torch_model

    def of_family(name: str) -> Callable[[], Any]:
        return lambda: tiny_family(name).torch_model

    return {name: of_family(name) for name in FAMILIES} | {
        name: of_case(name) for name in CASES if name not in FAMILIES
    }
