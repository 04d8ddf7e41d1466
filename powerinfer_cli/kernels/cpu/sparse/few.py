"""The sparse FFN for a few tokens: a row is read once for all that need it, and unpacked once for four of them.

As `sparse_token` of each token, to the bit: the same parts, the same order of a token's neurons in a part, the same
order of the parts. A neuron's tokens are the bits of a number, so that rows are asked for the union of the tokens'
neurons, and multiplied with those tokens only that need them. Each thread has all tokens in panels of its own.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, EXACT, curve_numbers
from powerinfer_cli.kernels.cpu.functions import activated_number
from powerinfer_cli.kernels.cpu.matvec import input_of, stride_of
from powerinfer_cli.kernels.cpu.rows import (
    COLUMNS,
    DOT_ROW,
    GROUP,
    ROW_BYTES,
    WeightRows,
    dot_row,
    dot_some,
    row_address,
    row_in_memory,
)
from powerinfer_cli.kernels.cpu.shares import fetch
from powerinfer_cli.kernels.cpu.sparse.asking import Predictor, logits_of, reached, rows_ahead
from powerinfer_cli.kernels.cpu.sparse.token import (
    GATES_AHEAD,
    PARTS,
    ROWS_AHEAD,
    NeuronMask,
    RowNeurons,
    add_down,
    add_parts,
    borders_of,
    parts_of,
)
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats.format import BUNDLE, padded
from powerinfer_cli.kernels.formats.token_panels import ABREAST, FOUR_PAY, INPUTS, first_vector, pack_tokens
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import address_of, f32, fetch_add, i32, i64, lowest_bit, stack_f32
from powerinfer_cli.model.blocks import Linear

__all__ = ["sparse_few"]

# What `few` points to: DOT_SOME of first and second; panels, bytes of each thread's.
FIRST, SECOND, PANELS, PANELS_BYTES = range(4)

OP = operands(
    "state fc2 hidden hidden_bytes numbers thresholds n first first_x first_x_bytes first_bias second second_x "
    "second_x_bytes second_bias few relu_on_up union needed chosen values n_ff counts down sums room borders code curve"
)


def sparse_few(
    state: npt.NDArray[np.int64],
    x: Vectors,
    hidden: Vectors | None,
    neurons: RowNeurons,
    predictor: Predictor | NeuronMask | None,
    out: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    few: int,
    panels: npt.NDArray[np.uint8],
) -> list[Operation]:
    """out[t], float32 [T, padded(n_embd) or more], = the FFN of x's t-th vector; up to `few` of them, FEW at most.

    counts [few, 2]: how many neurons each token's predictor let through, and how many fired, are added to it. panels:
    `token_panels`. The rest is as for `sparse_token`.
    """
    n_ff, n_embd = neurons.n_ff, padded(neurons.down.weight.n_cols)
    union, needed = np.zeros(n_ff, np.int32), np.zeros(n_ff, np.int64)
    chosen, values = np.zeros((few, n_ff), np.int32), np.zeros((few, n_ff), np.float32)
    asked: dict[str, Operand] = {"fc2": None, "hidden": None, "hidden_bytes": 0, "numbers": None, "thresholds": None}
    n = n_ff
    if isinstance(predictor, NeuronMask):
        asked |= {"hidden": predictor.bits}
    elif predictor is not None and hidden is not None:
        fc2, n = predictor.fc2, predictor.n
        asked = {"fc2": fc2, "hidden": input_of(fc2, hidden), "hidden_bytes": stride_of(fc2, hidden)}
        asked |= {"numbers": predictor.numbers, "thresholds": predictor.thresholds}
    borders = borders_of(n)
    sums = np.zeros((parts_of(borders), few, n_embd), np.float32)
    gate, up = neurons.gate, neurons.up
    one, other = (up, None) if gate is None else (gate, up)
    first, second = _with_inputs("first", one, x), _with_inputs("second", other, x)
    dots = one.weight.format.dot_some.address, 0 if other is None else other.weight.format.dot_some.address
    return [
        Operation.of(
            _add_neurons,
            OP,
            state=state,
            **asked,
            **first,
            **second,
            few=np.array([*dots, panels.ctypes.data, panels.strides[0]], np.int64),
            relu_on_up=gate is not None and neurons.relu_on_up,
            union=union,
            needed=needed,
            chosen=chosen,
            values=values,
            n=n,
            n_ff=n_ff,
            counts=counts,
            down=neurons.down.weight,
            sums=sums,
            room=few,
            borders=borders,
            code=ACTIVATION_CODES[neurons.activation],
            curve=curve_numbers(neurons.curve),
        ),
        add_parts(state, sums, out, neurons.down.bias, neurons.down.weight),
    ]


def _with_inputs(
    name: str, linear: Linear[WeightRows, npt.NDArray[np.float32]] | None, x: Vectors
) -> dict[str, Operand]:
    """A matrix, its inputs, the bytes from one to the next, and its bias."""
    names = (name, f"{name}_x", f"{name}_x_bytes", f"{name}_bias")
    if linear is None:
        return dict(zip(names, (None, None, 0, None), strict=True))
    rows = linear.weight
    return dict(zip(names, (rows, input_of(rows, x), stride_of(rows, x), linear.bias), strict=True))


@helper
def _pack(rows, x, x_bytes, n_tokens, panels):
    """A matrix's inputs to panels."""
    xs = i64(address_of(stack_f32(32)))
    for t in range(n_tokens):
        xs[t] = x + t * x_bytes
    pack_tokens(rows[GROUP], address_of(xs), n_tokens, rows[COLUMNS], panels)


@helper
def _multiply(rows, dot, x, x_bytes, panels, row, bits, ahead, found):
    """found[k] = a row . the k-th of the tokens whose bits are set."""
    xs, n, waiting, columns = i64(address_of(stack_f32(8))), 0, 0, rows[COLUMNS]
    while bits:
        waiting |= 1 << lowest_bit(bits)
        xs[n % ABREAST] = first_vector(panels, rows[GROUP], columns, lowest_bit(bits))
        bits &= bits - 1
        n += 1
        begin, rest = (n - 1) // ABREAST * ABREAST, (n - 1) % ABREAST + 1
        if bits and rest < ABREAST:
            continue
        if rest < FOUR_PAY:
            for k in range(begin, n):
                found[k] = dot_row(rows[DOT_ROW], row, x + lowest_bit(waiting) * x_bytes, columns, ahead)
                waiting &= waiting - 1
                ahead = row
        else:
            for k in range(rest, ABREAST):
                xs[k] = xs[rest - 1]
            dot_some(dot, row, address_of(xs), columns, ahead, address_of(found) + begin * 4)
        waiting, ahead = 0, row


@helper
def _let_through(op, begin, end, n_tokens, union, needed, through, worker):
    """Of numbers[begin:end] those that any token's predictor lets through -> union, their tokens -> needed; how many.
    through: of each token, are added to.
    """
    fc2, numbers, thresholds = i64(op[OP.fc2]), op[OP.numbers], f32(op[OP.thresholds])
    xs, aheads, logits = i64(address_of(stack_f32(32))), i64(address_of(stack_f32(128))), stack_f32(256)  # FEW tokens
    for t in range(FEW):
        xs[t] = op[OP.hidden] + min(t, n_tokens - 1) * op[OP.hidden_bytes]
    count, masks = 0, i64(address_of(stack_f32(32)))
    for i in range(begin, end, BUNDLE):
        rows_ahead(fc2, i, aheads)
        out = address_of(logits)
        logits_of(fc2, address_of(xs), n_tokens, numbers, thresholds, i, address_of(aheads), out, worker)
        any_token = 0
        for t in range(n_tokens):
            masks[t] = reached(logits, t, thresholds, i)
            any_token |= masks[t]
        while any_token:
            lane, bits = lowest_bit(any_token), 0
            any_token &= any_token - 1
            for t in range(n_tokens):
                bits |= (masks[t] >> lane & 1) << t
            union[count], needed[count] = i32(numbers)[i + lane], bits
            count += 1
            _count(bits, through)
    return count


@helper
def _marked(bits_of, begin, end, every, union, needed, through):
    """Neurons begin..end-1 that somebody else lets through for any token (0: all, for all) -> union, needed."""
    count = 0
    for i in range(begin, end):
        bits = i64(bits_of)[i] if bits_of else every
        if bits:
            union[count], needed[count] = i, bits
            count += 1
            _count(bits, through)
    return count


@helper
def _count(bits, through):
    while bits:
        through[lowest_bit(bits)] += 1
        bits &= bits - 1


@helper
def _open_neurons(op, panels, found, first, union, needed, count, place, lengths, worker):
    """Keep those of the union whose gate is open for any token; how many. Each token's own neurons and what they are
    go to its list, from `place` on.

    Behind the last rows those of the next step are asked for.
    """
    x, x_bytes, bias, code = op[OP.first_x], op[OP.first_x_bytes], op[OP.first_bias], op[OP.code]
    chosen, values, n_ff, curve = op[OP.chosen], op[OP.values], op[OP.n_ff], op[OP.curve]
    following, dot = i64(op[OP.second]) if op[OP.second] else i64(op[OP.down]), i64(op[OP.few])[FIRST]
    fired = 0
    for k in range(min(GATES_AHEAD, count)):
        fetch(row_in_memory(first, np.int64(union[k])), first[ROW_BYTES])
    for k in range(count):
        i, bits, kept, later = np.int64(union[k]), needed[k], 0, k + GATES_AHEAD
        row = row_address(first, i, worker)
        ahead = row
        if later < count:
            ahead = row_in_memory(first, np.int64(union[later]))
        elif later - count < fired:
            ahead = row_in_memory(following, np.int64(union[later - count]))
        _multiply(first, dot, x, x_bytes, panels, row, bits, ahead, found)
        k_found = 0
        while bits:
            t, value = lowest_bit(bits), found[k_found]
            bits &= bits - 1
            k_found += 1
            if bias:
                value += f32(bias)[i]
            if code:
                value = activated_number(value, code, curve)
            if code >= EXACT or value > np.float32(0.0):
                at = t * n_ff + place + lengths[t]
                i32(chosen)[at], f32(values)[at] = np.int32(i), value
                lengths[t] += 1
                kept |= 1 << t
        if kept:
            union[fired], needed[fired] = np.int32(i), kept
            fired += 1
    return fired


@helper
def _multiply_up(op, panels, found, union, needed, count, place, lengths, worker):
    """Each value *= its up product (+ bias), or *= relu of that."""
    rows, x, x_bytes = i64(op[OP.second]), op[OP.second_x], op[OP.second_x_bytes]
    bias, relu_on_up = op[OP.second_bias], op[OP.relu_on_up]
    values, n_ff = f32(op[OP.values]), op[OP.n_ff]
    for k in range(count):
        i, bits = np.int64(union[k]), needed[k]
        row, dot = row_address(rows, i, worker), i64(op[OP.few])[SECOND]
        ahead = row_in_memory(rows, np.int64(union[min(k + ROWS_AHEAD, count - 1)]))
        _multiply(rows, dot, x, x_bytes, panels, row, bits, ahead, found)
        k_found = 0
        while bits:
            t, up = lowest_bit(bits), found[k_found]
            bits &= bits - 1
            k_found += 1
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
        i64(op[OP.state])[N_TOKENS],
        i64(op[OP.first]),
        i64(op[OP.counts]),
        i64(op[OP.borders]),
    )
    down, n_ff, fc2 = i64(op[OP.down]), op[OP.n_ff], op[OP.fc2]
    sum_bytes, lengths = padded(down[COLUMNS]) * 4, i64(address_of(stack_f32(32)))  # FEW numbers
    through, found, few = i64(address_of(stack_f32(32))), stack_f32(16), i64(op[OP.few])
    opened = few[PANELS] + worker * few[PANELS_BYTES]
    multiplied = opened + few[PANELS_BYTES] // INPUTS
    part, n = take(op), op[OP.n]
    if part < PARTS and borders[part] < n:
        _pack(first, op[OP.first_x], op[OP.first_x_bytes], n_tokens, opened)
        if op[OP.second]:
            _pack(i64(op[OP.second]), op[OP.second_x], op[OP.second_x_bytes], n_tokens, multiplied)
    while part < PARTS and borders[part] < n:
        begin, end = borders[part], borders[part + 1]
        union, needed = i32(op[OP.union] + begin * 4), i64(op[OP.needed] + begin * 8)
        _clear(lengths, n_tokens)
        _clear(through, n_tokens)
        if fc2:
            count = _let_through(op, begin, end, n_tokens, union, needed, through, worker)
        else:
            count = _marked(op[OP.hidden], begin, end, (1 << n_tokens) - 1, union, needed, through)
        count = _open_neurons(op, opened, found, first, union, needed, count, begin, lengths, worker)
        if op[OP.second]:
            _clear(lengths, n_tokens)
            _multiply_up(op, multiplied, found, union, needed, count, begin, lengths, worker)
        for t in range(n_tokens):
            at = (t * n_ff + begin) * 4
            chosen, values = i32(op[OP.chosen] + at), f32(op[OP.values] + at)
            target = op[OP.sums] + (part * op[OP.room] + t) * sum_bytes
            add_down(down, 0, 0, 0, 0, chosen, lengths[t], values, target, worker)
            fetch_add(counts, 2 * t, through[t])
            fetch_add(counts, 2 * t + 1, lengths[t])
        part = take(op)


@helper
def _clear(lengths, n):
    for t in range(n):
        lengths[t] = 0
