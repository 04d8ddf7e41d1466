"""Weights that are no numbers, found before anything is made of them."""

from powerinfer_cli.gguf_io import GGUFFile, shown_name, spoilt_row
from powerinfer_cli.gguf_io.failure import shown_path

__all__ = ["spoilt_weights"]


def spoilt_weights(gguf: GGUFFile) -> str | None:
    """What is wrong with the first matrix of which something is no number; its name has the layer's number.

    Reads all of the file once.
    """
    for tensor in gguf.tensors.values():
        row = spoilt_row(tensor) if len(tensor.shape) > 1 else None
        if row is not None:
            where = f"{shown_path(tensor.path or gguf.path)}: {shown_name(tensor.name)}"
            return f"{where}, row {row}: weights that are no numbers: the file is damaged"
    return None
