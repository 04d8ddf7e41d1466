"""The sparse FFN for many tokens: each neuron's rows are unpacked once, and used for the tokens that need them only.

(1) Predictor: for each neuron the list of its tokens. (2) Gate (or up, where there is no gate) for each token of the
list; tokens that a ReLU leaves nothing drop out. (3) Up for the rest. (4) The lists are turned: for each token and each
block of neurons, the list of its neurons. (5) y += value * row of down_t, in slices of columns: a thread owns a slice,
unpacks a block's part of it, and goes over the tokens, so each number is summed by one thread in the neurons' order.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, curve_numbers
from powerinfer_cli.kernels.cpu.gemm import Product, Workspace, gemm
from powerinfer_cli.kernels.cpu.rows import COLUMNS, GROUP, HAS_MIN, ROWS, UNPACK_ROW, row_address, unpack_row
from powerinfer_cli.kernels.cpu.sparse.asking import Predictor, ask_batch
from powerinfer_cli.kernels.cpu.sparse.rows import (
    MULTIPLY,
    MULTIPLY_RELU,
    PACK,
    PACKED,
    multiply_rows,
    row_scratch_bytes,
)
from powerinfer_cli.kernels.cpu.sparse.token import NeuronMask, RowNeurons
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.formats import BUNDLE, padded
from powerinfer_cli.kernels.formats.chunks import chunk_bytes
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    at_least,
    f32,
    fetch_add,
    fma,
    i8,
    i32,
    i64,
    load_f32,
    load_i8,
    lowest_bit,
    splat,
    store_f32,
    zero,
)

__all__ = [
    "BLOCK",
    "ROOM",
    "SparseWorkspace",
    "add_rows",
    "make_sparse_workspace",
    "sparse_batch",
    "sparse_values",
]

BLOCK, _SLICE = 512, 128  # neurons and columns of down rows that are in a core's cache together
ROOM = BLOCK + 16  # for a token's list of a block's neurons

MARK = operands("state logits stride numbers thresholds n n_ff counts tokens capacity passed")
TURN = operands("state n_ff counts tokens values capacity sizes chosen factors most")
ADD_ROWS = operands("state rows counts sizes chosen factors most out stride bias scratch scratch_bytes")


@dataclass(frozen=True)
class SparseWorkspace:
    """What the sparse FFN needs besides its operands; operations of one program share it. Values lie where logits
    were.
    """

    logits: npt.NDArray[np.float32]  # [tokens, n_ff]
    counts: npt.NDArray[np.int32]  # [n_ff]: tokens in a neuron's list
    tokens: npt.NDArray[np.int32]  # [n_ff, tokens or more]: the lists, ascending
    values: npt.NDArray[np.float32]  # [n_ff, tokens or more]: what the neuron is for them
    sizes: npt.NDArray[np.int32]  # [blocks of neurons, tokens]: neurons in a token's list
    chosen: npt.NDArray[np.int32]  # [blocks, tokens, ROOM]: these lists, ascending, numbered from the block's first
    factors: npt.NDArray[np.float32]  # [blocks, tokens, ROOM]: the neurons' values
    packed: npt.NDArray[np.uint8]  # the batch as `sparse_dots` wants it
    scratch: npt.NDArray[np.uint8]  # [threads, bytes]

    def of(self, n_ff: int) -> "SparseWorkspace":
        """The same memory, for a layer of no more neurons: its logits in rows of n_ff."""
        flat, tokens = self.logits.reshape(-1), len(self.logits)
        return replace(self, logits=flat[: tokens * n_ff].reshape(tokens, n_ff), counts=self.counts[:n_ff])


def make_sparse_workspace(threads: int, tokens: int, n_embd: int, n_ff: int) -> SparseWorkspace:
    """For so many threads, tokens in a batch, and neurons."""
    down = _SLICE * (tokens + BLOCK + 1) * 4 + 128
    size = -(-max(row_scratch_bytes(n_embd), down) // 4096) * 4096 + 192
    blocks = -(-n_ff // BLOCK)
    turned = [aligned(blocks * tokens * ROOM * 4, huge=True) for _ in range(2)]
    room = tokens // 32 * 32 + 48  # an odd number of cache lines, or lists would get into each other's way
    tokens_of, logits = aligned(n_ff * room * 4, huge=True), tokens * n_ff * 4
    # For logits: 64 are read at a time, and of bundles they are written for 16 neurons, be there fewer.
    values = aligned(max(n_ff * room * 4, logits + tokens * BUNDLE * 4 + 256), huge=True)
    return SparseWorkspace(
        values[:logits].view(np.float32).reshape(tokens, n_ff),
        np.zeros(n_ff, np.int32),
        tokens_of.view(np.int32).reshape(n_ff, room),
        values[: n_ff * room * 4].view(np.float32).reshape(n_ff, room),
        np.zeros((blocks, tokens), np.int32),
        turned[0].view(np.int32).reshape(blocks, tokens, ROOM),
        turned[1].view(np.float32).reshape(blocks, tokens, ROOM),
        aligned(tokens * padded(n_embd) // 256 * chunk_bytes(16), huge=True),
        aligned(threads * size, huge=True).reshape(threads, size),
    )


def sparse_batch(
    state: npt.NDArray[np.int64],
    x: Vectors,
    hidden: Vectors | None,
    neurons: RowNeurons,
    predictor: Predictor | NeuronMask | None,
    out: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    products: Workspace,
    workspace: SparseWorkspace,
) -> list[Operation]:
    """out[t] = the FFN of x[t], for the first state[N_TOKENS] vectors. out float32 [T, any stride >= n_embd].

    hidden: relu(fc1 x), the input of fc2; without a predictor every neuron is computed. counts [2]: how many neurons
    are let through, and how many fire, over all tokens, is added to it. `products`: a workspace for fc2.
    """
    values = sparse_values(state, x, hidden, neurons, predictor, counts, products, workspace)
    return [*values, add_rows(state, neurons, out, workspace)]


def sparse_values(
    state: npt.NDArray[np.int64],
    x: Vectors,
    hidden: Vectors | None,
    neurons: RowNeurons,
    predictor: Predictor | NeuronMask | None,
    counts: npt.NDArray[np.int64],
    products: Workspace,
    workspace: SparseWorkspace,
) -> list[Operation]:
    """The first part of `sparse_batch`: what neurons are for which tokens, in the workspace."""
    w, capacity = workspace, workspace.tokens.shape[1]
    operations: list[Operation] = []
    n_ff = n = stride = neurons.n_ff
    asked: dict[str, Operand] = {"logits": None, "numbers": None, "thresholds": None}
    if isinstance(predictor, NeuronMask):
        asked |= {"logits": w.logits, "thresholds": predictor.thresholds}
    elif predictor is not None and hidden is not None and predictor.fc2.bundled:
        n, stride = predictor.n, -(-predictor.n // BUNDLE) * BUNDLE
        operations.append(ask_batch(state, hidden, predictor.fc2, w.logits, stride))
        asked = {"logits": w.logits, "numbers": predictor.numbers, "thresholds": predictor.thresholds}
    elif predictor is not None and hidden is not None:
        operations += gemm(state, hidden, [Product(predictor.fc2, w.logits)], products)
        asked |= {"logits": w.logits, "thresholds": predictor.thresholds_of(n_ff)}
    operations.append(
        Operation.of(
            _mark,
            MARK,
            **asked,
            state=state,
            stride=stride,
            n=n,
            n_ff=n_ff,
            counts=w.counts,
            tokens=w.tokens,
            capacity=capacity,
            passed=counts,
        )
    )
    first, curve = ACTIVATION_CODES[neurons.activation], curve_numbers(neurons.curve)
    steps = [(neurons.up, first)]
    if neurons.gate is not None:
        second = MULTIPLY_RELU if neurons.relu_on_up else MULTIPLY
        steps = [(neurons.gate, first), (neurons.up, second)]
    packed_for = 0
    for linear, step in steps:
        rows, bias = linear.weight, linear.bias
        f = rows.format
        if f.group not in (0, packed_for):
            packed_for = f.group
            operations.append(
                Operation.of(
                    PACK[f.group],
                    PACKED,
                    state=state,
                    records=x.records,
                    record_bytes=x.records.shape[1],
                    n=x.n,
                    stride=x.stride,
                    packed=w.packed,
                )
            )
        given, stride = x.floats.view(np.uint8), x.stride * 4
        if f.group:
            given, stride = w.packed, -(-x.n // (16 * f.group)) * chunk_bytes(f.group)
        lists = (w.counts, w.tokens, w.values, capacity)
        operations.append(multiply_rows(state, rows, given, stride, bias, lists, step, counts, w.scratch, curve))
    turned: dict[str, Operand] = {"sizes": w.sizes, "chosen": w.chosen, "factors": w.factors, "most": w.sizes.shape[1]}
    lists_of = {"counts": w.counts, "tokens": w.tokens, "values": w.values, "capacity": capacity}
    return [
        *operations,
        Operation.of(
            _turn,
            TURN,
            state=state,
            n_ff=neurons.n_ff,
            **lists_of,
            **turned,
        ),
    ]


def add_rows(
    state: npt.NDArray[np.int64],
    neurons: RowNeurons,
    out: npt.NDArray[np.float32],
    workspace: SparseWorkspace,
) -> Operation:
    """The last part of `sparse_batch`: out[t] = the sum of down's rows by the values in the workspace."""
    w = workspace
    return Operation.of(
        _add_rows,
        ADD_ROWS,
        state=state,
        rows=neurons.down.weight,
        counts=w.counts,
        sizes=w.sizes,
        chosen=w.chosen,
        factors=w.factors,
        most=w.sizes.shape[1],
        out=out,
        stride=out.shape[1],
        bias=neurons.down.bias,
        scratch=w.scratch,
        scratch_bytes=w.scratch.shape[1],
    )


@kernel(OPERATION, "sparse_mark")
def _mark(op_address, worker):
    """For each neuron the tokens whose logit lets it through. A piece is 64 neurons of those that may be, and what is
    before the next.
    """
    op = i64(op_address)
    state, logits, thresholds = i64(op[MARK.state]), f32(op[MARK.logits]), f32(op[MARK.thresholds])
    n, n_ff, numbers, stride = op[MARK.n], op[MARK.n_ff], op[MARK.numbers], op[MARK.stride]
    counts, tokens, capacity = i32(op[MARK.counts]), i32(op[MARK.tokens]), op[MARK.capacity]
    while True:
        begin = take(op) * 64
        if begin >= n:
            return
        end = min(begin + 64, n)
        low, high = _number(numbers, begin) if begin else 0, _number(numbers, end) if end < n else n_ff
        for i in range(low, high):
            counts[i] = 0
        every = -1 if end - begin == 64 else (1 << (end - begin)) - 1
        for t in range(state[N_TOKENS]):
            bits = every
            if op[MARK.logits]:
                at = t * stride + begin
                first = (
                    at_least(logits, at, thresholds, begin) | at_least(logits, at + 16, thresholds, begin + 16) << 16
                )
                at, k = at + 32, begin + 32
                second = at_least(logits, at, thresholds, k) | at_least(logits, at + 16, thresholds, k + 16) << 16
                bits &= first | second << 32
            while bits:
                i = _number(numbers, begin + lowest_bit(bits))
                tokens[i * capacity + counts[i]] = t
                counts[i] += 1
                bits &= bits - 1
        let_through = 0
        for i in range(low, high):
            let_through += counts[i]
        fetch_add(i64(op[MARK.passed]), 0, let_through)


@helper
def _number(numbers, i):
    """Of the i-th neuron that may be let through."""
    return np.int64(i32(numbers)[i]) if numbers else i


@kernel(OPERATION, "sparse_turn")
def _turn(op_address, worker):
    """Neurons' lists of tokens to tokens' lists of neurons. A piece is a block of neurons."""
    op = i64(op_address)
    state, n_ff, counts, capacity = i64(op[TURN.state]), op[TURN.n_ff], i32(op[TURN.counts]), op[TURN.capacity]
    n_tokens, most = state[N_TOKENS], op[TURN.most]
    while True:
        block = take(op)
        if block * BLOCK >= n_ff:
            return
        sizes = i32(op[TURN.sizes] + block * most * 4)
        chosen = i32(op[TURN.chosen] + block * most * ROOM * 4)
        factors = f32(op[TURN.factors] + block * most * ROOM * 4)
        for t in range(n_tokens):
            sizes[t] = 0
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, n_ff)):
            tokens, values = i32(op[TURN.tokens] + i * capacity * 4), f32(op[TURN.values] + i * capacity * 4)
            for k in range(counts[i]):
                at = np.int64(tokens[k]) * ROOM + sizes[tokens[k]]
                chosen[at], factors[at] = i - block * BLOCK, values[k]
                sizes[tokens[k]] += 1


@helper
def _dequantise(rows, neuron, begin, end, scratch, to, worker):
    """Columns begin..end of a row as float32. What follows in the last 16 is anything."""
    q, s, m = scratch, scratch + 4 * _SLICE, scratch + 4 * _SLICE + 64
    group, row = rows[GROUP], row_address(rows, neuron, worker)
    unpack_row(rows[UNPACK_ROW], row, rows[COLUMNS], begin, end, to if group == 0 else q, s, m)
    if group == 0:
        return
    for c in range(0, end - begin, 16):
        value = load_i8(i8(q), c) * splat(f32(s)[c // group])
        if rows[HAS_MIN]:
            value = value + splat(f32(m)[c // group])
        store_f32(f32(to), c, value)


@helper
def _add_block(sums, size, chosen, factors, weights):
    """sums[128] += factors[k] * weights[chosen[k]], in this order."""
    s0, s1, s2, s3 = load_f32(sums, 0), load_f32(sums, 16), load_f32(sums, 32), load_f32(sums, 48)
    s4, s5, s6, s7 = load_f32(sums, 64), load_f32(sums, 80), load_f32(sums, 96), load_f32(sums, 112)
    for k in range(size):
        at, factor = np.int64(chosen[k]) * _SLICE, splat(factors[k])
        s0 = fma(load_f32(weights, at), factor, s0)
        s1 = fma(load_f32(weights, at + 16), factor, s1)
        s2 = fma(load_f32(weights, at + 32), factor, s2)
        s3 = fma(load_f32(weights, at + 48), factor, s3)
        s4 = fma(load_f32(weights, at + 64), factor, s4)
        s5 = fma(load_f32(weights, at + 80), factor, s5)
        s6 = fma(load_f32(weights, at + 96), factor, s6)
        s7 = fma(load_f32(weights, at + 112), factor, s7)
    store_f32(sums, 0, s0)
    store_f32(sums, 16, s1)
    store_f32(sums, 32, s2)
    store_f32(sums, 48, s3)
    store_f32(sums, 64, s4)
    store_f32(sums, 80, s5)
    store_f32(sums, 96, s6)
    store_f32(sums, 112, s7)


@kernel(OPERATION, "sparse_add_rows")
def _add_rows(op_address, worker):
    """out[t] = bias + the sum of value * row over t's neurons. A piece is a slice of columns; its sums, and a block of
    neurons' weights, stay in the core's cache.
    """
    op = i64(op_address)
    state, rows, counts = i64(op[ADD_ROWS.state]), i64(op[ADD_ROWS.rows]), i32(op[ADD_ROWS.counts])
    most, out, stride, bias = op[ADD_ROWS.most], op[ADD_ROWS.out], op[ADD_ROWS.stride], op[ADD_ROWS.bias]
    scratch = op[ADD_ROWS.scratch] + worker * op[ADD_ROWS.scratch_bytes]
    n, n_tokens = rows[COLUMNS], state[N_TOKENS]
    weights = scratch + _SLICE * 4 + 128
    all_sums = weights + BLOCK * _SLICE * 4
    while True:
        begin = take(op) * _SLICE
        if begin >= n:
            return
        end = min(begin + _SLICE, n)
        for i in range(0, n_tokens * _SLICE, 16):
            store_f32(f32(all_sums), i, zero())
        for first in range(0, rows[ROWS], BLOCK):
            for i in range(first, min(first + BLOCK, rows[ROWS])):
                if counts[i]:
                    _dequantise(rows, i, begin, end, scratch, weights + (i - first) * _SLICE * 4, worker)
            lists = first // BLOCK * most
            for t in range(n_tokens):
                at = (lists + t) * ROOM * 4
                size = i32(op[ADD_ROWS.sizes])[lists + t]
                _add_block(
                    f32(all_sums + t * _SLICE * 4),
                    size,
                    i32(op[ADD_ROWS.chosen] + at),
                    f32(op[ADD_ROWS.factors] + at),
                    f32(weights),
                )
        for t in range(n_tokens):
            target, sums = f32(out + t * stride * 4), f32(all_sums + t * _SLICE * 4)
            for c in range(begin, end):
                target[c] = sums[c - begin] + f32(bias)[c] if bias else sums[c - begin]
