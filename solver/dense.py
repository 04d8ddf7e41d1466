"""A PowerInfer GGUF as an ordinary one: its predictors left out, its down matrices turned back."""

import re
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, GGUFFile, StreamedTensor, Tensor, rewrite_gguf, streamed, transposed
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import load_model
from powerinfer_cli.model.turned import Width, down_type

__all__ = ["write_dense"]

_PREDICTOR = re.compile(r"blk\.\d+\.fc[12]\.weight")


def write_dense(sparse: GGUFFile, path: Path, *, wanted: GGMLType | None = None) -> None:
    """Write the dense twin of a sparse model: the same numbers, every neuron active.

    Down matrices keep their type, or get the `wanted` type; in a quantised type they are quantised anew, along their
    new rows. The file names its activation (`hidden_activation`), as dense files would otherwise mean another.

    Raises:
        PowerInferError: no sparse model, or `path` cannot be written.
    """
    config = load_model(sparse).config
    if not config.sparse:
        raise PowerInferError(f"{sparse.path}: is dense already")
    tensors = [_turned(t, wanted) for t in sparse.tensors.values() if not _PREDICTOR.fullmatch(t.name)]
    key = f"{config.architecture.name}.hidden_activation"
    rewrite_gguf(
        sparse,
        path,
        dropped=("powerinfer.",),
        added={key: config.activation.value},
        tensors=tensors,
        sparse=False,
    )


def _turned(tensor: Tensor, wanted: GGMLType | None) -> StreamedTensor:
    if not tensor.name.startswith("blk.") or ".ffn_down_t." not in tensor.name:
        return streamed(tensor)
    name = tensor.name.replace(".ffn_down_t.", ".ffn_down.")
    if len(tensor.shape) == 1:
        return streamed(tensor, name)
    kind = wanted or down_type(tensor.type, tensor.shape[0], Width.SAME)
    return streamed(transposed(tensor, name, kind, CompiledFit()))
