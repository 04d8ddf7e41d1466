"""Tiny models as the checkpoints that others publish, and what the package's converter makes of them."""

import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from copy import deepcopy
from functools import partial
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint import open_checkpoint
from powerinfer_cli.convert.converting import convert_checkpoint
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.gguf_io import GGUFFile
from tests.helpers.model_file import ModelFile

NAMES = (
    "general.name",
    "general.basename",
    "general.finetune",
    "general.organization",
    "general.version",
    "tokenizer.",
)


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
    from tests.helpers.families.encoders import ENCODERS, tiny_encoder
    from tests.helpers.quantised_checkpoints import QUANTISED, quantised_model
    from tests.helpers.tiny_models import CASES, tiny_model

    def of_case(name: str) -> Callable[[], Any]:
        return lambda: tiny_model(name).torch_model

    def of_family(name: str) -> Callable[[], Any]:
        return lambda: tiny_family(name).torch_model

    def of_encoder(name: str) -> Callable[[], Any]:
        return lambda: tiny_encoder(name).torch_model

    cases = {name: of_case(name) for name in CASES if name not in FAMILIES}
    quantised = {f"llama-{kind}": partial(quantised_model, kind) for kind in QUANTISED}
    encoders = {name: of_encoder(name) for name in ENCODERS}
    return {name: of_family(name) for name in FAMILIES} | encoders | cases | quantised


def published(model: Any, name: str, **config: Any) -> Any:
    """The model, whose checkpoints are of another class, with a config that says more; tensors keep their names."""
    model.published = lambda: (model.config.to_dict() | config | {"architectures": [name]}, model.state_dict())
    return model


def plainly_filled(model: Any) -> Any:
    """A copy whose numbers follow from their places alone, whatever draws random ones in this version of torch."""
    import torch

    made = deepcopy(model)
    if hasattr(model, "published"):
        made.published = _of_copy(model.published, model, made)
    with torch.no_grad():
        for name, weight in made.state_dict().items():
            if name.endswith("layer_scalar"):
                continue  # whose product has bounds
            numbers = torch.arange(weight.numel(), dtype=torch.float64).add_(sum(name.encode()))
            weight.copy_(((numbers * 7919 % 1009) / 1009 - 0.5).reshape(weight.shape))
    return made


def _of_copy(told: Callable[[], Any], model: Any, made: Any) -> Callable[[], Any]:
    """What the model tells of itself, told of its copy."""

    def again() -> Any:
        kept = {name: weight.clone() for name, weight in model.state_dict().items()}
        model.load_state_dict(made.state_dict())
        try:
            config, tensors = told()
            return config, {name: weight.clone() for name, weight in tensors.items()}
        finally:
            model.load_state_dict(kept)

    return again


def digest(file: GGUFFile) -> str:
    """Of all tensors: names, types, shapes and bytes, but for those that an exponential has made: CPUs differ there."""
    found = sha256()
    for name, tensor in sorted(file.tensors.items()):
        found.update(f"{name} {tensor.type.name} {tensor.shape}".encode())
        if not name.endswith(".ssm_a"):
            found.update(tensor.data.tobytes())
    return found.hexdigest()[:16]


def plain_keys(file: GGUFFile) -> dict[str, Any]:
    """Those that do not depend on names of files and on the vocabulary, as JSON has them."""
    kept = {key: value for key, value in file.metadata.items() if not key.startswith(NAMES)}
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in kept.items()}
