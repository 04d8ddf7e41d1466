"""Asking a predictor's second matrix which neurons are let through, 16 rows at a time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.matvec import input_of, stride_of
from powerinfer_cli.kernels.cpu.rows import (
    CHUNK_BYTES,
    COLUMNS,
    DOT_BUNDLE,
    DOT_ROW,
    ROW_BYTES,
    ROWS,
    WeightRows,
    dot_bundle,
    dot_row,
    row_address,
    row_in_memory,
)
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import address_of, at_least, f32, i32, i64, load_f32, stack_f32, store_f32

__all__ = ["ALWAYS", "ASK", "NEVER", "Predictor", "ask_batch", "asked_neurons", "logits_of", "reached", "rows_ahead"]

# What statistics say of a neuron: the predictor's row is read only for those in between.
NEVER, ALWAYS, ASK = 0, 1, 2

_WHOLE = 64  # thresholds are read so many at a time
_TOKENS, _PIECE = 8, 64  # of a batch at a time, and rows that a thread claims

ASKS = operands("state fc2 hidden hidden_bytes out stride")


@dataclass(frozen=True)
class Predictor:
    """fc2 [n_ff, rank] over relu(fc1 x); where it is bundled, its rows for `numbers` alone.

    numbers int32 [n, rounded up to 64]: the neurons that may be let through, ascending. thresholds float32 of the same
    shape: let through where the logit is as large: -inf for those that always are, inf behind the last one.
    """

    fc2: WeightRows
    numbers: npt.NDArray[np.int32]
    thresholds: npt.NDArray[np.float32]
    n: int

    @classmethod
    def of(cls, fc2: WeightRows, modes: npt.NDArray[np.uint8], threshold: float) -> "Predictor":
        """modes uint8 [n_ff]: NEVER, ASK or ALWAYS."""
        asked = asked_neurons(modes)
        room = -(-len(asked) // _WHOLE) * _WHOLE
        numbers, thresholds = np.zeros(room, np.int32), np.full(room, np.inf, np.float32)
        numbers[: len(asked)] = asked
        limits = np.array([np.inf, -np.inf, threshold], np.float32)
        thresholds[: len(asked)] = limits[modes[asked]]
        return cls(fc2, numbers, thresholds, len(asked))

    def thresholds_of(self, n_ff: int) -> npt.NDArray[np.float32]:
        """Of all neurons, [n_ff, rounded up to 64]: inf for those that never are."""
        found = np.full(-(-n_ff // _WHOLE) * _WHOLE, np.inf, np.float32)
        found[self.numbers[: self.n]] = self.thresholds[: self.n]
        return found


def asked_neurons(modes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Those that may be let through; the first where none may, as a matrix has rows."""
    found = np.flatnonzero(modes != NEVER).astype(np.int32)
    return found if found.size else np.zeros(1, np.int32)


def ask_batch(
    state: npt.NDArray[np.int64], hidden: Vectors, fc2: WeightRows, out: npt.NDArray[np.float32], stride: int
) -> Operation:
    """out[t * stride + i] = row i of a bundled fc2 . hidden[t], for each of the batch's tokens; behind the last row, to
    the end of its bundle, 0. out: float32, of any shape.
    """
    return Operation.of(
        _ask_batch,
        ASKS,
        state=state,
        fc2=fc2,
        hidden=input_of(fc2, hidden),
        hidden_bytes=stride_of(fc2, hidden),
        out=out,
        stride=stride,
    )


@kernel(OPERATION, "ask_batch")
def _ask_batch(op_address, worker):
    """A piece is a few bundles, which stay in the core's first cache while the tokens pass."""
    op = i64(op_address)
    state, fc2, hidden, out, stride = (
        i64(op[ASKS.state]),
        i64(op[ASKS.fc2]),
        op[ASKS.hidden],
        op[ASKS.out],
        op[ASKS.stride],
    )
    xs, aheads, logits = i64(address_of(stack_f32(16))), address_of(stack_f32(128)), stack_f32(128)
    n, n_tokens = fc2[ROWS], state[N_TOKENS]
    while True:
        begin = take(op) * _PIECE
        if begin >= n:
            return
        for t in range(0, n_tokens, _TOKENS):
            count = min(_TOKENS, n_tokens - t)
            for k in range(_TOKENS):
                xs[k] = hidden + (t + min(k, count - 1)) * op[ASKS.hidden_bytes]
            for i in range(begin, min(begin + _PIECE, n), 16):
                row = row_in_memory(fc2, i)
                dot_bundle(
                    fc2[DOT_BUNDLE], row, address_of(xs), max(2, count), fc2[COLUMNS], aheads, address_of(logits)
                )
                for k in range(count):
                    store_f32(f32(out), (t + k) * stride + i, load_f32(logits, 16 * k))


@helper
def rows_ahead(fc2, i, aheads):
    """What memory is asked for while 16 rows from the i-th on are multiplied -> aheads: rows to come."""
    steps, size = 16, fc2[ROW_BYTES]
    if fc2[DOT_BUNDLE]:
        steps, size = min(64, fc2[COLUMNS] // 32), fc2[CHUNK_BYTES]
    own = row_in_memory(fc2, i) + AHEAD_BYTES
    for k in range(steps):
        aheads[k] = own + k * size


@helper
def logits_of(fc2, xs, n_tokens, numbers, thresholds, i, aheads, out, worker):
    """out[16 t + j] = the logit of the neuron numbers[i + j], for the tokens whose hidden vectors are at xs; anything
    where the threshold says enough.
    """
    if fc2[DOT_BUNDLE]:
        dot_bundle(fc2[DOT_BUNDLE], row_in_memory(fc2, i), xs, n_tokens, fc2[COLUMNS], aheads, out)
        return
    for j in range(16):
        if abs(thresholds[i + j]) == np.inf:
            for t in range(n_tokens):
                f32(out)[16 * t + j] = 0.0
            continue
        row, ahead = row_address(fc2, np.int64(i32(numbers)[i + j]), worker), i64(aheads)[j]
        for t in range(n_tokens):
            f32(out)[16 * t + j] = dot_row(fc2[DOT_ROW], row, i64(xs)[t], fc2[COLUMNS], ahead if t == 0 else row)


@helper
def reached(logits, t, thresholds, i):
    """Which of 16 neurons from numbers[i] on a token's logits let through, as bits."""
    return at_least(logits, 16 * t, thresholds, i)
