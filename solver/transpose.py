"""A stored matrix turned round, piece by piece: neurons are columns of ffn_down and rows of ffn_down_t."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, StreamedTensor, Tensor, dequantize, quantize

__all__ = ["storable", "transposed"]

PIECE = 1 << 22  # numbers turned at a time
FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def storable(kind: GGMLType, columns: int) -> GGMLType:
    """`kind` where rows of that many numbers can be written in it; else Q8_0, or F16 where that cannot be."""
    for choice in (kind, GGMLType.Q8_0):
        try:
            quantize(np.zeros((1, columns), np.float32), choice)
        except GGUFError:
            continue
        return choice
    return GGMLType.F16


def transposed(tensor: Tensor, name: str, kind: GGMLType) -> StreamedTensor:
    """[rows, columns] as [columns, rows] of type `kind`, made a piece at a time.

    Raises GGUFError (when the pieces are made): a number that `kind` cannot hold.
    """
    n_rows, n_columns = tensor.shape
    block_size, block_bytes = BLOCK[tensor.type]
    step = max(1, PIECE // n_rows // block_size) * block_size

    def pieces() -> Iterator[npt.NDArray[np.uint8]]:
        rows = tensor.rows()
        for start in range(0, n_columns, step):
            stop = min(start + step, n_columns)
            part = rows[:, start // block_size * block_bytes : stop // block_size * block_bytes]
            values = dequantize(np.ascontiguousarray(part), tensor.type)
            yield quantize(np.ascontiguousarray(values.T), kind).reshape(-1)
        tensor.drop_pages(0, tensor.nbytes)

    return StreamedTensor(name, kind, (n_columns, n_rows), pieces)
