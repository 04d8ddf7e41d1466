"""A checkpoint's folder: its configuration, and where each tensor is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint.config import Config
from powerinfer_cli.convert.checkpoint.pickled import open_pickled
from powerinfer_cli.convert.checkpoint.quantised import plain_tensors
from powerinfer_cli.convert.checkpoint.safetensors import open_safetensors
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.json_text import read_json

__all__ = ["Checkpoint", "open_checkpoint", "read_json_file"]

MOST_JSON = 256 << 20  # bytes; tokenizers of 256,000 tokens have some 30 MB
SHARDS = 1 << 12


@dataclass(frozen=True)
class Checkpoint:
    """config: of config.json. tensors: by the names that the weights have there, quantised ones as plain matrices."""

    folder: Path
    config: Config
    tensors: Mapping[str, Tensor]

    @property
    def files(self) -> tuple[Path, ...]:
        """That hold tensors."""
        return tuple(dict.fromkeys(tensor.path for tensor in self.tensors.values() if tensor.path is not None))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Its weights are mapped, not read.

    Raises:
        PowerInferError: the folder has no configuration or no weights, a file of these is missing or damaged, or a
            tensor is there twice, or not in the file that the index names.
    """
    if not folder.is_dir():
        wrong = "is a file; give the folder with config.json" if folder.exists() else "there is no such folder"
        raise PowerInferError(f"{folder}: {wrong}")
    found = read_json_file(folder / "config.json")
    if found is None:
        raise PowerInferError(f"{folder}: has no config.json: not the folder of a model as transformers saves it")
    config = Config(folder / "config.json", found)
    return Checkpoint(folder, config, plain_tensors(config, _tensors(folder)))


def read_json_file(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file. Raises PowerInferError."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise PowerInferError(f"{path}: has {path.stat().st_size} bytes, too many for what it should be")
        found = read_json(path.read_bytes(), strict=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PowerInferError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PowerInferError(f"{path}: is not JSON: {str(error)[:80]}") from error
    if not isinstance(found, dict):
        raise PowerInferError(f"{path}: is not a JSON object")
    return found


def _tensors(folder: Path) -> dict[str, Tensor]:
    """As transformers looks for them: safetensors before pickles, an index before single files."""
    for name, opened in (("model.safetensors", open_safetensors), ("pytorch_model.bin", open_pickled)):
        index = read_json_file(folder / f"{name}.index.json")
        if index is not None:
            return _sharded(folder, folder / f"{name}.index.json", index, opened)
        if (folder / name).exists():
            return opened(folder / name)
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if shards:
        raise PowerInferError(f"{folder}: has {shards[0]} but no model.safetensors.index.json, which names the others")
    raise PowerInferError(f"{folder}: has no weights: neither model.safetensors nor pytorch_model.bin, nor their parts")


def _sharded(folder: Path, path: Path, index: dict[str, Any], opened: Any) -> dict[str, Tensor]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise PowerInferError(f"{path}: has no weight_map")
    names = sorted(set(places.values()))
    if len(names) > SHARDS or any("/" in name or name in ("", ".", "..") for name in names):
        raise PowerInferError(f"{path}: names files outside the folder, or too many")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise PowerInferError(f"{folder / missing[0]}: this part of the checkpoint is missing{more}")
    tensors: dict[str, Tensor] = {}
    for name in names:
        for tensor in opened(folder / name).values():
            if places.get(tensor.name) != name:
                raise PowerInferError(
                    f"{folder / name}: holds tensor {tensor.name[:80]!r}, which {path.name} does not say"
                )
            tensors[tensor.name] = tensor
    lacking = next((tensor for tensor in places if tensor not in tensors), None)
    if lacking is not None:
        raise PowerInferError(
            f"{folder / places[lacking]}: tensor {lacking[:80]!r} is missing, which {path.name} names"
        )
    return tensors
