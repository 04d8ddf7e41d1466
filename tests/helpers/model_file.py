"""A model in memory, as what a GGUF of it would hold, and small changes to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFFile, open_gguf, quantize, write_gguf
from powerinfer_cli.model import Predictors
from powerinfer_cli.runtime import Engine, EngineOptions


@dataclass(frozen=True)
class ModelFile:
    """`tensors` are float32, rows first; those that `types` names are stored in another type."""

    arch: str
    metadata: Mapping[str, Any]  # keys without the architecture in front are general ones and hold a dot
    tensors: Mapping[str, np.ndarray]
    sparse: bool = False
    types: Mapping[str, GGMLType] = field(default_factory=dict)

    @property
    def n_layer(self) -> int:
        return int(self.metadata[f"{self.arch}.block_count"])

    def write(self, path: Path) -> Path:
        tensors = [(name, data, self.types.get(name, GGMLType.F32)) for name, data in self.tensors.items()]
        write_gguf(path, arch=self.arch, metadata=self.metadata, tensors=tensors, sparse=self.sparse)
        return path

    def open(self, folder: Path) -> GGUFFile:
        """The model, by way of a file in `folder`."""
        return open_gguf(self.write(folder / "model.gguf"))

    def engine(self, folder: Path, predictors: Predictors | None = None, **options: Any) -> Engine:
        return Engine.load(
            self.open(folder),
            EngineOptions(**{"n_ctx": 64, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options),
            predictors=predictors,
        )

    def with_metadata(self, **changes: Any) -> "ModelFile":
        """Keys of the architecture; `__` stands for a dot, None drops a key."""
        metadata = dict(self.metadata)
        for name, value in changes.items():
            key = f"{self.arch}.{name.replace('__', '.')}"
            metadata.pop(key, None)
            if value is not None:
                metadata[key] = value
        return replace(self, metadata=metadata)

    def with_tensors(self, changes: Mapping[str, np.ndarray | None]) -> "ModelFile":
        """Tensors added or replaced; None drops one."""
        merged = {**self.tensors, **changes}
        return replace(self, tensors={name: data for name, data in merged.items() if data is not None})

    def stored_as(self, kind: GGMLType) -> "ModelFile":
        """The matrices in another type, by quantising them; what is not made of whole blocks stays as it is."""
        size = BLOCK[kind][0]
        matrices = [name for name, data in self.tensors.items() if data.ndim > 1 and data.shape[-1] % size == 0]
        stored = {name: quantize(self.tensors[name], kind) for name in matrices}
        return replace(self.with_tensors(stored), types=dict.fromkeys(matrices, kind))

    def first_layers(self, count: int) -> "ModelFile":
        dropped = [name for name in self.tensors if name.startswith("blk.") and int(name.split(".")[1]) >= count]
        return self.with_tensors(dict.fromkeys(dropped)).with_metadata(block_count=count)

    def sparsified(
        self,
        predictors: Sequence[tuple[np.ndarray, np.ndarray] | None],
        threshold: float | None = None,
        bias_name: str = "ffn_down_t.bias",
        *,
        turned: bool = False,
    ) -> "ModelFile":
        """As a PowerInfer model: down matrices transposed, each layer with its predictor (fc1, fc2). None: the layer
        runs dense, its down matrix as it is, or transposed as well.
        """
        changes: dict[str, np.ndarray | None] = {}
        dense = [layer for layer, pair in enumerate(predictors) if pair is None]
        for layer, pair in enumerate(predictors):
            prefix = f"blk.{layer}."
            if pair is None and not turned:
                continue
            down = self.tensors[prefix + "ffn_down.weight"]
            changes |= {prefix + "ffn_down.weight": None, prefix + "ffn_down.bias": None}
            changes |= {prefix + "ffn_down_t.weight": np.ascontiguousarray(down.T)}
            if pair is not None:
                changes |= {prefix + "fc1.weight": pair[0], prefix + "fc2.weight": pair[1]}
            if prefix + "ffn_down.bias" in self.tensors:
                changes[prefix + bias_name] = self.tensors[prefix + "ffn_down.bias"]
        metadata = dict(self.metadata)
        if threshold is not None:
            metadata["powerinfer.sparse_threshold"] = threshold
        if dense:
            metadata["powerinfer.dense_layers"] = np.array(dense, np.int32)
        return replace(self.with_tensors(changes), metadata=metadata, sparse=True)
