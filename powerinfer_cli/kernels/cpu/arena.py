"""One piece of memory for all of a model's weights."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.vectors import aligned

__all__ = ["Arena", "arena_bytes"]

_LINE = 64


def arena_bytes(n_bytes: int) -> int:
    """What a piece of so many bytes takes up: whole cache lines."""
    return -(-n_bytes // _LINE) * _LINE


class Arena:
    """Memory on huge pages, handed out in order. (With memory for each matrix, half a huge page a matrix is lost.)"""

    def __init__(self, n_bytes: int) -> None:
        """Raises MemoryError."""
        self._memory = aligned(n_bytes, huge=True)
        self._used = 0

    def take(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        """Zeros that begin on a cache line's border. Raises MemoryError: more than is left."""
        end = self._used + arena_bytes(n_bytes)
        if end > len(self._memory):
            raise MemoryError(f"{n_bytes} bytes of an arena that has {len(self._memory) - self._used} left")
        piece = self._memory[self._used : self._used + n_bytes]
        self._used = end
        return piece
