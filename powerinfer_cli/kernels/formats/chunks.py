"""How the sparse products hold rows and tokens: chunks of 16 groups of columns.

A chunk of 16 groups of a row or token is stored as (BYTES as int8 for integer formats)
  q [group / 4][16 groups][4 bytes]; float32 scales (d) [16]; float32 minima, or int32 -128 * sums of q, [16]
As in `panels`, rows hold w + `offset_of` the format, and sums start at -offset * sum of q.
"""

__all__ = ["AT_ONCE", "chunk_bytes"]

AT_ONCE = 4  # tokens


def chunk_bytes(group: int) -> int:
    """Of 16 groups."""
    return 16 * group + 128
