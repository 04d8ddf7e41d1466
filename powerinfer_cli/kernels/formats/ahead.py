"""Rows that are asked for from memory while others are computed."""

from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import prefetch

__all__ = ["asking"]


def asking(chunk_bytes, vectors):
    """ask(address, k): ask for the k-th of as many parts of a chunk as it has vectors."""
    lines = -(-chunk_bytes // 64)

    @helper
    def ask(address, k):
        for line in range(lines * k // vectors, lines * (k + 1) // vectors):
            prefetch(address + 64 * line)

    return ask
