"""Moves of a tensor's numbers that several families have. Rows are the first axis, of matrices and of biases."""

from functools import partial

import numpy as np

from powerinfer_cli.convert.conversion import Array, Change, Part

__all__ = [
    "both",
    "decay",
    "gate_and_up",
    "neighbours",
    "plus_one",
    "rows_between",
    "sections",
    "thirds",
    "turned_over",
    "without_channel",
]


def neighbours(head_dim: int) -> Change:
    """Rows i and i + head_dim / 2 of a head become neighbours, as rope by neighbours has them."""

    def move(rows: Array) -> Array:
        halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    return move


def rows_between(begin: int, end: int | None = None) -> Change:
    """Some rows."""
    return lambda rows: rows[begin:end]


def sections(name: str, **sizes: int) -> tuple[Part, ...]:
    """Of a fused matrix, whose rows belong to parts of these names one after the other: `name` with each filled in."""
    parts, begin = [], 0
    for part, size in sizes.items():
        parts.append(Part(name.format(part), rows_between(begin, begin + size)))
        begin += size
    return tuple(parts)


def thirds(n_head: int) -> Change:
    """Of a matrix that has a head's queries, keys and values together: those of all heads one after the other."""

    def move(rows: Array) -> Array:
        heads = rows.reshape(n_head, 3, rows.shape[0] // max(1, 3 * n_head), *rows.shape[1:])
        return heads.swapaxes(0, 1).reshape(rows.shape)

    return move


def both(first: Change, second: Change) -> Change:
    """One move after the other."""
    return lambda array: second(first(array))


def gate_and_up(name: str, axis: int = -2) -> tuple[Part, ...]:
    """Of a matrix, or a stack of such, that has the gate's rows before those of up."""
    return tuple(Part(name.format(part), partial(_half, which=i, axis=axis)) for i, part in enumerate(("gate", "up")))


def _half(rows: Array, which: int, axis: int) -> Array:
    axis = max(rows.ndim + axis, 0) if axis < 0 else axis
    size = rows.shape[axis] // 2
    return rows[(slice(None),) * axis + (slice(which * size, (which + 1) * size),)]


def turned_over(array: Array) -> Array:
    """The last two axes of a matrix, or of a stack of such, change places."""
    return array.swapaxes(-1, -2) if array.ndim > 1 else array


def without_channel(array: Array) -> Array:
    """Of a convolution over one channel each: [channels, 1, taps] becomes [channels, taps]."""
    return array.reshape(array.shape[0], array.shape[-1]) if array.ndim == 3 else array


def decay(numbers: Array) -> Array:
    """By which states decay, of its logarithm; to the bit as torch, in which other converters compute it."""
    import torch

    made: Array = -torch.exp(torch.from_numpy(np.array(numbers))).numpy()
    return made


def plus_one(numbers: Array) -> Array:
    """The model adds 1 to a norm's weight, the file has the sum."""
    return numbers + np.ones((), numbers.dtype)
