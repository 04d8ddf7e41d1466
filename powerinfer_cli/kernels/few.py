"""How many tokens are a few. What a batch is, `Batch.kind` in runtime/batch.py says, and nobody else."""

__all__ = ["FEW", "ONE_BY_ONE"]

FEW = 16
"""Tokens at most that the CPU multiplies side by side, each to the bit as it would be alone; a
row of weights is read once for all. `sparse_few` keeps so many sums at hand, and a bit for each token.
"""

ONE_BY_ONE = 8
"""Tokens at most that a device multiplies without dequantising: whole matrices four at a time, neurons and experts one
after the other, which costs a launch and a read of the weights for each. At 4.5 bits a weight, 8 reads move as many
bytes as dequantising to halves once and reading these (0.6 + 2 + 2).
"""
