"""Files that `torch.save` wrote of a model's weights: read as data, and mapped; nothing in them is executed."""

from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, Tensor
from powerinfer_cli.number_files import is_whole, load_torch

__all__ = ["open_pickled"]

MOST_BYTES = 1 << 42
WHAT = "weights that torch.save wrote, of plain tensors only"


def open_pickled(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name.

    Raises:
        PowerInferError: the file cannot be read, holds code or anything else than tensors of real numbers.
    """
    found = load_torch(path, MOST_BYTES, WHAT)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise PowerInferError(f"{path}: not {WHAT}")
    return {str(name): _tensor(path, str(name), value) for name, value in found.items()}


def _tensor(path: Path, name: str, value: object) -> Tensor:
    import torch

    types = {
        torch.float64: GGMLType.F64,
        torch.float32: GGMLType.F32,
        torch.float16: GGMLType.F16,
        torch.bfloat16: GGMLType.BF16,
        torch.int64: GGMLType.I64,
        torch.int32: GGMLType.I32,
        torch.int16: GGMLType.I16,
        torch.int8: GGMLType.I8,
        torch.uint8: GGMLType.I8,
        torch.bool: GGMLType.I8,
    }
    if not isinstance(value, torch.Tensor) or not is_whole(value) or value.dtype not in types:
        raise PowerInferError(f"{path}: {name[:80]!r} is no tensor of plain numbers: not {WHAT}")
    data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return Tensor(name, types[value.dtype], tuple(value.shape), data, path)
