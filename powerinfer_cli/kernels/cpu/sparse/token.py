"""The sparse FFN for one token. What the token does not need is not read; twin of `reference.sparse_ffn`.

A layer's neurons are cut into parts, the same for any number of threads. Whoever takes a part asks the predictor, reads
the gate rows of the neurons that are let through, the up rows of those whose gate is open, and adds up their down
rows, from the first to the last, in the part's own sum. At the end the parts' sums are added in their order. So a row
is read as a whole by one thread, and the result is always the same. Rows are scattered over memory: each is asked for
some neurons before it is read, evenly, as bursts would fill the queue that reading needs as well.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, EXACT, curve_numbers
from powerinfer_cli.kernels.cpu.functions import activated_number
from powerinfer_cli.kernels.cpu.matvec import input_of
from powerinfer_cli.kernels.cpu.rows import (
    AXPY4_ROWS,
    AXPY_ROW,
    COLUMNS,
    DOT_ROW,
    REPACK_ROW,
    ROW_BYTES,
    WeightRows,
    axpy4_rows,
    axpy_row,
    dot_row,
    row_address,
    row_in_memory,
)
from powerinfer_cli.kernels.cpu.shares import fetch
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK, NEVER, Predictor, logits_of, reached, rows_ahead
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats.format import BUNDLE, padded
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    address_of,
    f32,
    fetch_add,
    i32,
    i64,
    load_f32,
    lowest_bit,
    stack_f32,
    store_f32,
    u8,
    zero,
)
from powerinfer_cli.model.blocks import Linear, Neurons

__all__ = [
    "ALWAYS",
    "ASK",
    "GATES_AHEAD",
    "NEVER",
    "PARTS",
    "ROWS_AHEAD",
    "NeuronMask",
    "Predictor",
    "RowNeurons",
    "add_down",
    "add_parts",
    "borders_of",
    "parts_of",
    "sparse_token",
]

# How much of the neurons each part has: small ones at the end, so that no thread waits long for another. Of few neurons
# there are fewer parts: the sums of many would be more bytes than the rows (1,024 of them: 217 us a token, then 174).
_SHARES, _SMALL_SHARES = np.array([3] * 8 + [1] * 8), np.array([3, 3, 1, 1])
_SMALL = 2048  # neurons
PARTS = len(_SHARES)  # at most
GATES_AHEAD, ROWS_AHEAD = 8, 4  # how many neurons before it is read a row is asked for
_COLUMNS = 512  # of the sum that a thread claims at a time: a whole chunk

NEURONS = operands(
    "fc2 hidden numbers thresholds n modes first first_x first_bias second second_x second_bias relu_on_up chosen "
    "values counts down sums borders code curve"
)
PART_SUMS = operands("state sums n parts part_stride out out_stride bias n_bias group")

# A layer's neurons, whose down rows are rows.
RowNeurons: TypeAlias = Neurons[WeightRows, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class NeuronMask:
    """Somebody else asks the predictor, and says who is let through.

    modes uint8 [n_ff]: written before each token, NEVER or ALWAYS. bits int64 [n_ff]: written before a few tokens,
    whose numbers are the bits: 1 for those that the neuron counts for. Before a batch the workspace's logits are
    written: 1.0 for who is let through, else 0.0.
    """

    modes: npt.NDArray[np.uint8]
    bits: npt.NDArray[np.int64]

    @property
    def thresholds(self) -> npt.NDArray[np.float32]:
        """Of a batch's logits, [n_ff, rounded up to 64]."""
        return np.full(-(-len(self.modes) // 64) * 64, 0.5, np.float32)


def sparse_token(
    x: Vectors,
    hidden: Vectors | None,
    neurons: RowNeurons,
    predictor: Predictor | NeuronMask | None,
    out: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
) -> list[Operation]:
    """out float32 [padded(n_embd)] = the FFN of x's first vector.

    hidden: relu(fc1 x), the input of fc2; without a predictor every neuron is computed. counts [2]: how many neurons
    are let through, and how many fire, is added to it.
    """
    n_ff, n_embd = neurons.n_ff, padded(neurons.down.weight.n_cols)
    chosen, values = np.zeros(n_ff, np.int32), np.zeros(n_ff, np.float32)
    asked: dict[str, Operand] = {"fc2": None, "hidden": None, "numbers": None, "thresholds": None, "modes": None}
    n = n_ff
    if isinstance(predictor, NeuronMask):
        asked |= {"modes": predictor.modes}
    elif predictor is not None and hidden is not None:
        fc2, n = predictor.fc2, predictor.n
        asked |= {"fc2": fc2, "hidden": input_of(fc2, hidden)}
        asked |= {"numbers": predictor.numbers, "thresholds": predictor.thresholds}
    borders = borders_of(n)
    sums = np.zeros((parts_of(borders), 1, n_embd), np.float32)
    gate, up = neurons.gate, neurons.up.weight
    ups: tuple[Operand, ...] = up, input_of(up, x), neurons.up.bias
    first, second = (ups, (None, None, None)) if gate is None else (_with_input(gate, x), ups)
    steps = dict(
        zip(("first", "first_x", "first_bias", "second", "second_x", "second_bias"), (*first, *second), strict=True)
    )
    return [
        Operation.of(
            _add_neurons,
            NEURONS,
            **asked,
            **steps,
            n=n,
            relu_on_up=gate is not None and neurons.relu_on_up,
            chosen=chosen,
            values=values,
            counts=counts,
            down=neurons.down.weight,
            sums=sums,
            borders=borders,
            code=ACTIVATION_CODES[neurons.activation],
            curve=curve_numbers(neurons.curve),
        ),
        add_parts(None, sums, out, neurons.down.bias, neurons.down.weight),
    ]


def _with_input(linear: Linear[WeightRows, npt.NDArray[np.float32]], x: Vectors) -> tuple[Operand, ...]:
    return linear.weight, input_of(linear.weight, x), linear.bias


def borders_of(n: int) -> npt.NDArray[np.int64]:
    """Where parts of n neurons begin, each with whole bundles, and the last one ends, [PARTS + 1]: n from there on."""
    shares = _SMALL_SHARES if n < _SMALL else _SHARES
    bundles = -(-n // BUNDLE) * np.cumsum([0, *shares]) // shares.sum()
    borders = np.full(PARTS + 1, n, np.int64)
    borders[: len(bundles)] = np.minimum(BUNDLE * bundles, n)
    return borders


def parts_of(borders: npt.NDArray[np.int64]) -> int:
    """How many parts there are; of no neurons one."""
    return max(1, int((borders < borders[-1]).sum()))


def add_parts(
    state: npt.NDArray[np.int64] | None,
    sums: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    down: WeightRows,
) -> Operation:
    """out[t] = the parts' sums (+ bias), in the order of columns. sums [parts, T or more, padded(n)], in AXPY's order.

    Without a state there is one token.
    """
    n_parts, n_tokens, n = sums.shape
    return Operation.of(
        _add_parts,
        PART_SUMS,
        state=state,
        sums=sums,
        n=n,
        parts=n_parts,
        part_stride=n_tokens * n,
        out=out,
        out_stride=out.strides[0] // 4 if out.ndim > 1 else 0,
        bias=bias,
        n_bias=down.n_cols,
        group=down.format.group,
    )


@helper
def _let_through(fc2, hidden, numbers, thresholds, begin, end, chosen, worker):
    """Of numbers[begin:end] those that the predictor lets through -> chosen; how many."""
    xs, aheads, logits = i64(address_of(stack_f32(2))), i64(address_of(stack_f32(128))), stack_f32(16)
    xs[0] = hidden
    count = 0
    for i in range(begin, end, BUNDLE):
        rows_ahead(fc2, i, aheads)
        logits_of(fc2, address_of(xs), 1, numbers, thresholds, i, address_of(aheads), address_of(logits), worker)
        bits = reached(logits, 0, thresholds, i)
        while bits:
            chosen[count] = i32(numbers)[i + lowest_bit(bits)]
            count += 1
            bits &= bits - 1
    return count


@helper
def _marked(modes, begin, end, chosen):
    """Neurons begin..end-1 that somebody else lets through -> chosen; how many."""
    count = 0
    for i in range(begin, end):
        if modes[i] == ALWAYS:
            chosen[count] = i
            count += 1
    return count


@helper
def _everything(begin, end, chosen):
    for i in range(begin, end):
        chosen[i - begin] = i
    return end - begin


@helper
def _open_neurons(code, curve, first, x, bias, following, chosen, count, values, worker):
    """Keep those of the chosen whose gate is open (a layer without gate: whose up is positive); how many.

    Only ReLU and its square close gates: under other activations, by their code, all are kept. Behind the last rows
    those of the next step are asked for.
    """
    fired = 0
    for k in range(min(GATES_AHEAD, count)):
        fetch(row_in_memory(first, np.int64(chosen[k])), first[ROW_BYTES])
    for k in range(count):
        i, later = np.int64(chosen[k]), k + GATES_AHEAD
        ahead = row_in_memory(first, i)
        if later < count:
            ahead = row_in_memory(first, np.int64(chosen[later]))
        elif later - count < fired:
            ahead = row_in_memory(following, np.int64(chosen[later - count]))
        value = dot_row(first[DOT_ROW], row_address(first, i, worker), x, first[COLUMNS], ahead)
        if bias:
            value += f32(bias)[i]
        if code:
            value = activated_number(value, code, curve)
        if code >= EXACT or value > np.float32(0.0):
            chosen[fired], values[fired] = np.int32(i), value
            fired += 1
    return fired


@helper
def _times_up(value, rows, x, bias, relu_on_up, i, later, worker):
    """value * (W[i] . x (+ bias)), or * relu of that; row `later` is asked for on the way."""
    up = dot_row(rows[DOT_ROW], row_address(rows, i, worker), x, rows[COLUMNS], row_in_memory(rows, later))
    if bias:
        up += f32(bias)[i]
    if relu_on_up:
        up = max(up, np.float32(0.0))
    return value * up


@helper
def add_down(rows, second, x, bias, relu_on_up, chosen, count, values, out_address, worker):
    """out = the sum of values[k] * W[chosen[k]], in AXPY's order; each value first times its up product where there is
    a second matrix: a neuron's up and down rows are neighbours, so that memory is asked for both at once.
    """
    n, out = rows[COLUMNS], f32(out_address)
    for c in range(0, padded(n), 16):
        store_f32(out, c, zero())
    eight, a = i64(address_of(stack_f32(16))), stack_f32(4)
    for k in range(0, count, 4):
        for j in range(4):  # behind the last row: nothing of it once more
            i, later = np.int64(chosen[min(k + j, count - 1)]), np.int64(chosen[min(k + j + ROWS_AHEAD, count - 1)])
            value = values[k + j] if k + j < count else np.float32(0.0)
            if second and k + j < count:
                value = _times_up(value, i64(second), x, bias, relu_on_up, i, later, worker)
            eight[j], eight[4 + j], a[j] = row_in_memory(rows, i), row_in_memory(rows, later), value
            if rows[REPACK_ROW] and k + j < count:  # there is room for one rearranged row only
                fetch(row_in_memory(rows, later), rows[ROW_BYTES])
                axpy_row(rows[AXPY_ROW], row_address(rows, i, worker), n, value, out_address)
        if not rows[REPACK_ROW]:
            axpy4_rows(rows[AXPY4_ROWS], address_of(eight), n, address_of(a), out_address)


@kernel(OPERATION, "add_neurons")
def _add_neurons(op_address, worker):
    op = i64(op_address)
    fc2, numbers, thresholds = op[NEURONS.fc2], op[NEURONS.numbers], f32(op[NEURONS.thresholds])
    first, first_x, first_bias = i64(op[NEURONS.first]), op[NEURONS.first_x], op[NEURONS.first_bias]
    second, second_x, second_bias, relu_on_up = (
        op[NEURONS.second],
        op[NEURONS.second_x],
        op[NEURONS.second_bias],
        op[NEURONS.relu_on_up],
    )
    counts, down, sums, borders = (
        i64(op[NEURONS.counts]),
        i64(op[NEURONS.down]),
        op[NEURONS.sums],
        i64(op[NEURONS.borders]),
    )
    sum_bytes, code, curve = padded(down[COLUMNS]) * 4, op[NEURONS.code], op[NEURONS.curve]
    part, n = take(op), op[NEURONS.n]
    while part < PARTS and borders[part] < n:
        begin, end = borders[part], borders[part + 1]
        chosen, values = i32(op[NEURONS.chosen] + begin * 4), f32(op[NEURONS.values] + begin * 4)
        if fc2:
            count = _let_through(i64(fc2), op[NEURONS.hidden], numbers, thresholds, begin, end, chosen, worker)
        elif op[NEURONS.modes]:
            count = _marked(u8(op[NEURONS.modes]), begin, end, chosen)
        else:
            count = _everything(begin, end, chosen)
        following = i64(second) if second else down
        fired = _open_neurons(code, curve, first, first_x, first_bias, following, chosen, count, values, worker)
        ups = second, second_x, second_bias, relu_on_up
        add_down(down, *ups, chosen, fired, values, sums + part * sum_bytes, worker)
        fetch_add(counts, 0, count)
        fetch_add(counts, 1, fired)
        part = take(op)


@kernel(OPERATION, "add_parts")
def _add_parts(op_address, worker):
    """A piece is some columns of a token."""
    op = i64(op_address)
    n, parts, part_stride, bias, n_bias, group = (
        op[PART_SUMS.n],
        op[PART_SUMS.parts],
        op[PART_SUMS.part_stride],
        op[PART_SUMS.bias],
        op[PART_SUMS.n_bias],
        op[PART_SUMS.group],
    )
    n_tokens = i64(op[PART_SUMS.state])[N_TOKENS] if op[PART_SUMS.state] else 1
    lanes, chunk, pieces = stack_f32(16), 16 * group, n // _COLUMNS
    while True:
        piece = take(op)
        if piece >= n_tokens * pieces:
            return
        t, begin = piece // pieces, piece % pieces * _COLUMNS
        sums, out = f32(op[PART_SUMS.sums] + t * n * 4), f32(op[PART_SUMS.out] + t * op[PART_SUMS.out_stride] * 4)
        for c in range(begin, begin + _COLUMNS, 16):
            total = load_f32(sums, c)
            for part in range(1, parts):
                total = total + load_f32(sums, part * part_stride + c)
            if group == 0:
                store_f32(out, c, total)
                continue
            store_f32(lanes, 0, total)
            first = c // chunk * chunk + c % chunk // 16  # the column of the first lane: see AXPY
            for j in range(16):
                out[first + group * j] = lanes[j]
        if bias:
            for c in range(begin, min(begin + _COLUMNS, n_bias)):
                out[c] += f32(bias)[c]
