"""The vectors that flow through a layer: float32 beside their quantised records, for up to a batch of tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.formats import padded, record_bytes
from powerinfer_cli.system.memory import private_pages

__all__ = ["N_TOKENS", "Vectors", "aligned", "make_records", "make_vectors"]

_HUGE_PAGE = 2 << 20

# Place in the state, an int64 array that every operation can read: tokens in this batch. `segments` has the others.
N_TOKENS = 0


@dataclass(frozen=True)
class Vectors:
    """Room for `len(floats)` vectors of n numbers, zeros behind n. Records are laid out as in `formats.format`."""

    n: int
    floats: npt.NDArray[np.float32]  # [tokens, padded(n)]
    records: npt.NDArray[np.uint8]  # [tokens, record_bytes(n)], or [0, 0] where nobody wants them

    @property
    def stride(self) -> int:
        """float32 from one token to the next."""
        return int(self.floats.shape[1])


def make_vectors(n_tokens: int, n: int, *, records: bool = True) -> Vectors:
    """Vectors of zeros."""
    floats = aligned(n_tokens * padded(n) * 4).view(np.float32).reshape(n_tokens, padded(n))
    return Vectors(n, floats, make_records(n_tokens, n) if records else np.empty((0, 0), np.uint8))


def make_records(n_tokens: int, n: int) -> npt.NDArray[np.uint8]:
    """[tokens, record_bytes(n)] zeros."""
    return aligned(n_tokens * record_bytes(n)).reshape(n_tokens, -1)


def aligned(n_bytes: int, *, huge: bool = False) -> npt.NDArray[np.uint8]:
    """Zeros that begin on a cache line's border. Memory that is never written to costs nothing. Raises MemoryError.

    huge: on huge pages, where the system has them, for what is filled as a whole. With small pages, rows that are
    read here and there cost a search through the page tables each: as much as reading them.
    """
    if n_bytes < 2 * _HUGE_PAGE:
        memory = np.zeros(n_bytes + 64, np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start : start + n_bytes]
    try:
        pages = private_pages(n_bytes + _HUGE_PAGE, huge=huge)
    except OSError as error:
        raise MemoryError(f"{n_bytes} bytes") from error
    memory = np.frombuffer(pages, np.uint8)
    start = -memory.ctypes.data % _HUGE_PAGE
    return memory[start : start + n_bytes]
