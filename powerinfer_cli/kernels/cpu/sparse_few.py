"""The sparse FFN for a few tokens, one of several sequences each: a row is read once for all that need it.

As `sparse_token` of each token, to the bit: the same parts, the same order of a token's neurons in a part, the same
order of the parts. A neuron's tokens are the bits of a number, so that rows are asked for the union of the tokens'
neurons, and multiplied with those tokens only that need them.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, EXACT
from powerinfer_cli.kernels.cpu.functions import activated_number
from powerinfer_cli.kernels.cpu.matvec import AHEAD_BYTES, fetch, input_of, stride_of
from powerinfer_cli.kernels.cpu.rows import COLUMNS, DOT_ROW, ROW_BYTES, dot_row, row_address
from powerinfer_cli.kernels.cpu.sparse_token import (
    ALWAYS,
    ASK,
    PARTS,
    Predictor,
    RowNeurons,
    Told,
    add_down,
    add_parts,
    borders_of,
    row_in_memory,
)
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats.format import padded
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation
from powerinfer_cli.kernels.jit.team import FIRST, OPERATION, take
from powerinfer_cli.kernels.simd import address_of, f32, fetch_add, float_of, i32, i64, lowest_bit, stack_f32, u8

__all__ = ["FEW", "sparse_few"]

FEW = 16  # tokens at most
# The operation's numbers.
_STATE, _FC2, _HIDDEN, _HIDDEN_BYTES, _MODES, _THRESHOLD = range(FIRST, FIRST + 6)
_FIRST_ROWS, _FIRST_X, _FIRST_X_BYTES, _FIRST_BIAS = range(FIRST + 6, FIRST + 10)
_SECOND, _SECOND_X, _SECOND_X_BYTES, _SECOND_BIAS, _RELU_ON_UP = range(FIRST + 10, FIRST + 15)
_UNION, _NEEDED, _CHOSEN, _VALUES, _N_FF = range(FIRST + 15, FIRST + 20)
_COUNTS, _DOWN, _SUMS, _ROOM, _BORDERS, _CODE = range(FIRST + 20, FIRST + 26)


def sparse_few(
    state: npt.NDArray[np.int64],
    x: Vectors,
    hidden: Vectors | None,
    neurons: RowNeurons,
    predictor: Predictor | Told | None,
    out: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    few: int,
) -> list[Operation]:
    """out[t], float32 [T, padded(n_embd) or more], = the FFN of x's t-th vector; up to `few` of them, FEW at most.

    The rest is as for `sparse_token`.
    """
    n_ff, n_embd = neurons.n_ff, padded(neurons.down.weight.n_cols)
    union, needed = np.zeros(n_ff, np.int32), np.zeros(n_ff, np.int64)
    chosen, values = np.zeros((few, n_ff), np.int32), np.zeros((few, n_ff), np.float32)
    sums = np.zeros((PARTS, few, n_embd), np.float32)
    asked: tuple[Operand, ...] = (None, None, 0, None, 0.0)
    if isinstance(predictor, Told):
        asked = (None, predictor.bits, 0, None, 0.0)
    elif predictor is not None and hidden is not None:
        fc2 = predictor.fc2
        asked = (fc2, input_of(fc2, hidden), stride_of(fc2, hidden), predictor.modes, predictor.threshold)
    gate, up = neurons.gate, neurons.up.weight
    first: tuple[Operand, ...] = (up, input_of(up, x), stride_of(up, x), neurons.up.bias, None, None, 0, None, False)
    if gate is not None:
        second = (up, input_of(up, x), stride_of(up, x), neurons.up.bias, neurons.relu_on_up)
        rows = gate.weight
        first = (rows, input_of(rows, x), stride_of(rows, x), gate.bias, *second)
    down, code = neurons.down.weight, ACTIVATION_CODES[neurons.activation]
    lists = (union, needed, chosen, values, n_ff)
    return [
        Operation(_add_neurons, (state, *asked, *first, *lists, counts, down, sums, few, borders_of(n_ff), code)),
        add_parts(state, sums, out, neurons.down.bias, down),
    ]


@helper
def _tokens_of(fc2, hidden, hidden_bytes, threshold, row, ahead, n_tokens):
    """The tokens whose logit lets a neuron through, as bits."""
    bits = 0
    for t in range(n_tokens):
        at = hidden + t * hidden_bytes
        if dot_row(fc2[DOT_ROW], row, at, fc2[COLUMNS], ahead if t == 0 else row) >= threshold:
            bits |= 1 << t
    return bits


@helper
def _let_through(op, first, begin, end, n_tokens, union, needed, worker):
    """Neurons begin..end-1 that any token's predictor, or their statistics, let through -> union, their tokens ->
    needed; how many, and for how many tokens in all.

    Their rows of the next step are asked for on the way, a little with each row of fc2.
    """
    fc2, hidden, hidden_bytes, threshold = i64(op[_FC2]), op[_HIDDEN], op[_HIDDEN_BYTES], float_of(op[_THRESHOLD])
    modes, every = u8(op[_MODES]), (1 << n_tokens) - 1
    count = asked = through = 0
    done = np.int64(0)  # bytes asked for of the row of union[asked]
    for i in range(begin, end):
        bits = every
        if hidden and not op[_FC2]:
            bits = i64(hidden)[i]
        elif op[_MODES]:
            bits = every if modes[i] == ALWAYS else 0
            if modes[i] == ASK:
                ahead = row_in_memory(fc2, i) + AHEAD_BYTES
                if asked < count:
                    ahead = row_in_memory(first, np.int64(union[asked])) + done
                    done += fc2[ROW_BYTES]
                    if done >= first[ROW_BYTES]:
                        asked, done = asked + 1, np.int64(0)
                row = row_address(fc2, i, worker)
                bits = _tokens_of(fc2, hidden, hidden_bytes, threshold, row, ahead, n_tokens)
        if bits:
            union[count], needed[count] = i, bits
            count += 1
            while bits:
                bits &= bits - 1
                through += 1
    for k in range(asked, min(count, asked + 64)):
        fetch(row_in_memory(first, np.int64(union[k])), first[ROW_BYTES])
    return count, through


@helper
def _open_neurons(op, first, union, needed, count, place, lengths, worker):
    """Keep those of the union whose gate is open for any token; how many. Each token's own neurons and what they are
    go to its list, from `place` on.

    Of each that is kept, a row of the next step is asked for while the row after it is read.
    """
    x, x_bytes, bias, code = op[_FIRST_X], op[_FIRST_X_BYTES], op[_FIRST_BIAS], op[_CODE]
    chosen, values, n_ff = op[_CHOSEN], op[_VALUES], op[_N_FF]
    following = i64(op[_SECOND]) if op[_SECOND] else i64(op[_DOWN])
    fired = asked = 0
    for k in range(count):
        i, bits, kept = np.int64(union[k]), needed[k], 0
        row = row_address(first, i, worker)
        ahead = row
        if asked < fired:
            ahead = row_in_memory(following, np.int64(union[asked]))
            asked += 1
        while bits:
            t = lowest_bit(bits)
            bits &= bits - 1
            value = dot_row(first[DOT_ROW], row, x + t * x_bytes, first[COLUMNS], ahead)
            ahead = row
            if bias:
                value += f32(bias)[i]
            if code:
                value = activated_number(value, code)
            if code >= EXACT or value > np.float32(0.0):
                at = t * n_ff + place + lengths[t]
                i32(chosen)[at], f32(values)[at] = np.int32(i), value
                lengths[t] += 1
                kept |= 1 << t
        if kept:
            union[fired], needed[fired] = np.int32(i), kept
            fired += 1
    for k in range(asked, fired):
        fetch(row_in_memory(following, np.int64(union[k])), following[ROW_BYTES])
    return fired


@helper
def _multiply_up(op, union, needed, count, place, lengths, worker):
    """Each value *= its up product (+ bias), or *= relu of that; the down rows are asked for on the way."""
    rows, x, x_bytes = i64(op[_SECOND]), op[_SECOND_X], op[_SECOND_X_BYTES]
    bias, relu_on_up = op[_SECOND_BIAS], op[_RELU_ON_UP]
    values, n_ff, down = f32(op[_VALUES]), op[_N_FF], i64(op[_DOWN])
    for k in range(count):
        i, bits = np.int64(union[k]), needed[k]
        row, ahead = row_address(rows, i, worker), row_in_memory(down, i)
        while bits:
            t = lowest_bit(bits)
            bits &= bits - 1
            up = dot_row(rows[DOT_ROW], row, x + t * x_bytes, rows[COLUMNS], ahead)
            ahead = row
            if bias:
                up += f32(bias)[i]
            if relu_on_up:
                up = max(up, np.float32(0.0))
            values[t * n_ff + place + lengths[t]] *= up
            lengths[t] += 1


@kernel(OPERATION, "add_neurons_few")
def _add_neurons(op_address, worker):
    op = i64(op_address)
    n_tokens, first, counts, borders = (
        i64(op[_STATE])[N_TOKENS],
        i64(op[_FIRST_ROWS]),
        i64(op[_COUNTS]),
        i64(op[_BORDERS]),
    )
    down, n_ff, fc2 = i64(op[_DOWN]), op[_N_FF], op[_FC2]
    sum_bytes, lengths = padded(down[COLUMNS]) * 4, i64(address_of(stack_f32(32)))  # FEW numbers
    part = take(op)
    while part < PARTS:
        begin, end = borders[part], borders[part + 1]
        union, needed = i32(op[_UNION] + begin * 4), i64(op[_NEEDED] + begin * 8)
        _clear(lengths, n_tokens)
        count, through = _let_through(op, first, begin, end, n_tokens, union, needed, worker)
        count = _open_neurons(op, first, union, needed, count, begin, lengths, worker)
        if op[_SECOND]:
            _clear(lengths, n_tokens)
            _multiply_up(op, union, needed, count, begin, lengths, worker)
        following, fired = take(op), 0
        read_next = i64(fc2) if fc2 else first
        ahead = row_in_memory(read_next, borders[min(following, PARTS)])
        limit = row_in_memory(read_next, borders[min(following + 1, PARTS)])
        for t in range(n_tokens):
            at = (t * n_ff + begin) * 4
            chosen, values = i32(op[_CHOSEN] + at), f32(op[_VALUES] + at)
            target = op[_SUMS] + (part * op[_ROOM] + t) * sum_bytes
            add_down(down, chosen, lengths[t], values, target, min(ahead, limit), worker)
            ahead += lengths[t] * down[ROW_BYTES]
            fired += lengths[t]
        fetch_add(counts, 0, through)
        fetch_add(counts, 1, fired)
        part = following


@helper
def _clear(lengths, n):
    for t in range(n):
        lengths[t] = 0
