"""Reading memory and nothing else, to measure how fast it is."""

from powerinfer_cli.kernels.jit import kernel, types
from powerinfer_cli.kernels.simd import i64

__all__ = ["sum_words"]


@kernel(types.int64(types.int64, types.int64))
def sum_words(address, n):
    """The sum of n int64. In vector additions, which wait for nothing but memory.

    Four places at once: one alone leaves a sixth unused.
    """
    words, quarter, total = i64(address), n // 4, 0
    for i in range(quarter):
        total += words[i] + words[i + quarter] + words[i + 2 * quarter] + words[i + 3 * quarter]
    for i in range(4 * quarter, n):
        total += words[i]
    return total
