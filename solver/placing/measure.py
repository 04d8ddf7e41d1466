"""What this machine's CPU costs: the engine's own kernels, timed on weights of a model's sizes.

As many layers as the model has, so that caches hold of them what they hold of it; no more than a large cache would not
hold either. What is timed is short, a few milliseconds, and done often: other programs meet some of it only. All
threads always take part: on busy machines a team goes on with fewer, but it would be chance in which parts.
"""

import itertools
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor, dequantize, quantize
from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.arena import Arena
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.products import attention_kernels
from powerinfer_cli.kernels.cpu.matvec import matvec
from powerinfer_cli.kernels.cpu.norm import add_norm, quantise
from powerinfer_cli.kernels.cpu.packing import bundles, pack, pack_side_by_side, packed_bytes, packing_kernels
from powerinfer_cli.kernels.cpu.rows import Bundled
from powerinfer_cli.kernels.cpu.segments import make_state
from powerinfer_cli.kernels.cpu.sparse.asking import ASK, Predictor
from powerinfer_cli.kernels.cpu.sparse.token import sparse_token
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.formats.convert import conversion
from powerinfer_cli.kernels.jit import prepare
from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.kernels.jit.team import TEAM_KERNELS, Team
from powerinfer_cli.model import Activation, Model, NormKind
from powerinfer_cli.model.blocks import Linear, Neurons, attentions, predictor_of, routing_of
from powerinfer_cli.model.turned import down_type
from powerinfer_cli.runtime.threads import default_threads
from solver.placing.device_profile import ANY_TYPE, Processor, Rates

__all__ = ["DENSITIES", "ROUNDS", "USUAL", "CostShape", "Timing", "measure_cpu", "rate_and_fixed", "zeros"]

WEIGHTS = 384 << 20  # bytes, of each kind of product: servers' last caches have that many, and hold some of less
DENSITIES = 0.02, 0.1, 0.2  # shares of neurons let through: the slope over them is what a neuron costs
DRAWS = 32  # of active neurons
POSITIONS = 2048
LAYERS = 8  # in a program of small operations
TOGETHER = 4 << 20  # bytes of layers that are timed as one
LEAST_RUNS, MOST_RUNS, LONG_ENOUGH = 15, 1000, 0.3  # of each measurement; seconds
ROUNDS = 4  # of measurements that are compared, in turn: so that what else the machine does befalls all alike
TOKEN = 6e-5  # seconds: Python between two tokens
PREDICTOR = GGMLType.Q8_0
RANK = 8  # of the width: a predictor's, where there is none


@dataclass(frozen=True)
class CostShape:
    """The sizes of a model that costs depend on: its width, its layers and what they are made of, without matrices'
    types. n_q, n_kv: numbers of a token's queries and keys. rank: of predictors. n_chosen: of n_experts, those that a
    token needs, whose neurons together are n_ff; 0: there are none. down: the type of down matrices once a neuron is a
    row, which is often wider; None: that of the others.
    """

    n_embd: int = 4096
    n_ff: int = 11008
    gated: bool = True
    n_q: int = 4096
    n_kv: int = 4096
    head_dim: int = 128
    n_layer: int = 32
    rank: int = 1024
    n_experts: int = 0
    n_chosen: int = 0
    down: GGMLType | None = None

    @classmethod
    def of(cls, model: Model) -> "CostShape":
        """As if all layers were like the one in the middle by neurons, of those that have some. Of experts, those that
        a token needs count.
        """
        layers = sorted(model.layers, key=lambda layer: layer.ffn.neurons.n_ff)
        some = [layer.ffn for layer in layers if layer.ffn.neurons.n_ff] or [layers[0].ffn]
        ffn = some[len(some) // 2]
        routed, n_ff = routing_of(ffn.selection), ffn.neurons.n_ff
        n_experts = n_chosen = 0
        if routed is not None:
            n_experts, n_chosen = routed.n_experts, routed.router.n_chosen
            n_ff = n_ff // n_experts * n_chosen
        n_embd, gated = model.config.n_embd, ffn.neurons.gate is not None
        asked = [predictor_of(layer.ffn.selection) for layer in layers]
        ranks = sorted(one.fc1.shape[0] for one in asked if one is not None)
        rank = ranks[len(ranks) // 2] if ranks else n_embd // RANK
        found = cls(
            n_embd, n_ff, gated, n_embd, n_embd, n_embd, len(layers), max(32, rank - rank % 32), n_experts, n_chosen
        )
        turned = ffn.neurons.down.weight.type
        if not ffn.neurons.transposed:
            turned = down_type(turned, n_embd)
        found = found if turned is ffn.neurons.up.weight.type or routed is not None else replace(found, down=turned)
        heads = attentions(model.layers)
        if not heads:
            return found
        one = heads[len(heads) // 2]
        return replace(found, n_q=one.n_q, n_kv=one.n_kv, head_dim=one.head_dim)

    def matrices(self, kind: GGMLType) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Rows and columns of a layer's, those together that are multiplied by the same numbers."""
        ffn = (self.n_ff, self.n_embd)
        down = (self.n_embd, self.n_ff) if self.n_ff % BLOCK[kind][0] == 0 else ffn
        back = (self.n_embd, self.n_q) if self.n_q % BLOCK[kind][0] == 0 else (self.n_q, self.n_embd)
        kv = (self.n_kv, self.n_embd)
        return ((self.n_q, self.n_embd), kv, kv), (back,), (ffn,) * (1 + self.gated), (down,)


USUAL = CostShape()
"""Of a 7B model."""


def measure_cpu(
    kinds: Sequence[GGMLType] = (GGMLType.Q4_0,),
    shape: CostShape = USUAL,
    threads: int | None = None,
    cores: Sequence[frozenset[int]] = (),
    on_step: Callable[[str], None] | None = None,
) -> Processor:
    """Time the CPU engine's parts, a second or so for each weight type. The first of `kinds` stands for all others.

    shape: its rows are whole blocks of each type. threads: None for one per physical core. cores: where each may run.
    Raises MemoryError.
    """
    down = shape.down or kinds[0]
    down = down if down in FORMATS else conversion(down)
    team = Team(threads or default_threads(tuple(cores)), cores, steady=True)
    say = on_step or (lambda _: None)
    try:
        rates, ffn = {}, []
        for kind in dict.fromkeys(kinds):
            say(f"CPU: {kind.name}")
            turned = down if kind is kinds[0] else kind
            prepare([*TEAM_KERNELS, *packing_kernels([kind, turned, PREDICTOR], asked=[PREDICTOR], whole=[kind])])
            dense, scattered, fixed = _reading(team, kind, turned, shape)
            rates[kind.name] = Rates(dense, scattered)
            ffn.append(fixed)
        say("CPU: attention")
        return Processor(
            name=platform.processor() or platform.machine() or "CPU",
            memory=0,
            rates=rates | {ANY_TYPE: rates[kinds[0].name]},
            cache=_cache(team, shape),
            layer=_layer(team, shape),
            ffn=ffn[0],
            token=TOKEN,
        )
    finally:
        team.close()


def zeros(kind: GGMLType, n_rows: int, n_cols: int) -> Tensor:
    """How long a product takes does not depend on the numbers."""
    data = np.zeros(n_rows * _row_bytes(kind, n_cols), np.uint8)
    return Tensor("measured", kind, (n_rows, n_cols), data)


def _row_bytes(kind: GGMLType, n_cols: int) -> int:
    block_size, block_bytes = BLOCK[kind]
    return n_cols // block_size * block_bytes


class Timing:
    """Programs, which take alike and run in turn, as they are timed."""

    def __init__(
        self, team: Team, programs: Sequence[Sequence[Operation]], before: Callable[[], None] = lambda: None
    ) -> None:
        prepare(operation.kernel for operations in programs for operation in operations)
        self._team, self._before, self._made = team, before, [assemble(operations) for operations in programs]
        self._turns = itertools.cycle(self._made)
        self._times: list[float] = []
        self._last: list[float] = []

    def run(self, share: float = 1.0) -> "Timing":
        """A share of all that is to be timed, after some runs that are not."""
        for program in self._made:
            self._team.run(program.table)
        times: list[float] = []
        least = share * max(LEAST_RUNS, len(self._made))
        while len(times) < least or (sum(times) < share * LONG_ENOUGH and len(times) < share * MOST_RUNS):
            self._before()
            program = next(self._turns)
            start = time.perf_counter()
            self._team.run(program.table)
            times.append(time.perf_counter() - start)
        self._times += times
        self._last = times
        return self

    @property
    def seconds(self) -> float:
        """Of one, which three of four runs take more than: what others do to those is not the machine's."""
        return _low(self._times)

    @property
    def last(self) -> float:
        """The same, of the last share that was run."""
        return _low(self._last)


def _low(times: Sequence[float]) -> float:
    return sorted(times)[len(times) // 4]


def _timed(team: Team, programs: Sequence[Sequence[Operation]]) -> float:
    return Timing(team, programs).run().seconds


def _reading(team: Team, kind: GGMLType, down: GGMLType, shape: CostShape) -> tuple[float, float, float]:
    """Bytes a second of whole matrices and of active neurons' rows; seconds that a sparse FFN costs besides, without
    its predictor's bytes. down: the type of its rows.
    """
    whole, n_whole = _dense(team, kind, shape)
    sparse, n_rows, predictor, each = _scattered(team, kind, down, shape)
    rounds = []
    for number in range(ROUNDS):
        for one in (whole, *sparse) if number % 2 == 0 else (*reversed(sparse), whole):
            one.run(1 / ROUNDS)
        rounds.append([one.last for one in (whole, *sparse)])
    # Of one round, as what takes a core away for tenths of seconds would else be in some of them, and not in others.
    read, *asked = min(rounds, key=sum)
    dense = n_whole / read
    rate, fixed = rate_and_fixed(n_rows, [one / each for one in asked])
    return dense, rate, max(0.0, fixed - predictor / dense)  # those are counted with the layer's


def _divided(n_layer: int, n_bytes: int) -> tuple[int, int]:
    """How many programs, and of how many layers each: of so many bytes of a layer, as many as a model has or as are
    enough.
    """
    there = max(1, min(n_layer, WEIGHTS // n_bytes))
    each = max(1, min(there, TOGETHER // n_bytes))
    return max(1, there // each), each


def _dense(team: Team, kind: GGMLType, shape: CostShape) -> tuple[Timing, int]:
    """A layer's matrices, or a few layers', from front to back: each has a beginning and an end. Their bytes."""
    groups = shape.matrices(kind)
    n_bytes = sum(rows * _row_bytes(kind, columns) for group in groups for rows, columns in group)
    state = make_state(1, 0, np.zeros(1, np.int32)).numbers
    inputs = {columns: make_vectors(1, columns) for group in groups for _, columns in group}
    tensors = [[zeros(kind, *size) for size in group] for group in groups]
    count, each = _divided(shape.n_layer, n_bytes)
    bundled = Bundled.WHOLE if bundles(kind) else None
    sizes = (packed_bytes(tensor, bundled=bundled is not None) for group in tensors for tensor in group)
    arena = Arena(count * each * sum(sizes))

    def layer() -> list[Operation]:
        made: list[Operation] = []
        for group in tensors:
            rows = [pack(tensor, team, arena=arena, bundled=bundled) for tensor in group]
            x = inputs[group[0].shape[1]]
            outs = [np.zeros(one.n_rows, np.float32) for one in rows]
            made += [quantise(state, x)] if group is tensors[-1] else []  # as an activation comes before down
            made += [
                matvec(one, x, out, threads=team.size, wait=one is rows[-1])
                for one, out in zip(rows, outs, strict=True)
            ]
        return made

    programs = [[operation for _ in range(each) for operation in layer()] for _ in range(count)]
    return Timing(team, programs), each * n_bytes


def _scattered(
    team: Team, kind: GGMLType, down_kind: GGMLType, shape: CostShape
) -> tuple[list[Timing], list[float], float, int]:
    """Sparse FFNs of some numbers of active neurons, bytes of these neurons' rows, the predictor's, and how many layers
    are timed as one.
    """
    row, down_row = _row_bytes(kind, shape.n_embd), _row_bytes(down_kind, shape.n_embd)
    layer_bytes = ((1 + shape.gated) * row + down_row) * shape.n_ff
    state = make_state(1, 0, np.zeros(1, np.int32)).numbers
    x, hidden, out = make_vectors(1, shape.n_embd), make_vectors(1, shape.rank), make_vectors(1, shape.n_embd).floats[0]
    rng, asked = np.random.default_rng(0), _predictor_rows(shape)
    hidden_rows = zeros(PREDICTOR, shape.rank, shape.n_embd)
    fires = rng.choice([-1.0, 1.0], shape.n_ff).astype(np.float32)  # a bias: of neurons let through, half fire
    made = np.zeros(shape.rank, np.float32)
    tensors = [zeros(one, shape.n_ff, shape.n_embd) for one in (kind, kind, down_kind)]
    count, each = _divided(shape.n_layer, layer_bytes)
    sizes = packed_bytes(asked, bundled=True), *map(packed_bytes, (hidden_rows, *tensors))
    arena = Arena(count * each * sum(sizes))

    def layer() -> list[Operation]:
        fc1 = pack(hidden_rows, team, arena=arena)
        fc2 = pack(asked, team, arena=arena, bundled=Bundled.ASKED)
        predictor = Predictor.of(fc2, np.full(shape.n_ff, ASK, np.uint8), 1.0)
        gate, up, down = pack_side_by_side(tensors, team, arena=arena)
        gates, ups = (Linear(gate, fires), Linear(up, None)) if shape.gated else (None, Linear(up, fires))
        neurons = Neurons(shape.n_ff, gates, ups, Linear(down, None), True, Activation.RELU)
        ask = [matvec(fc1, x, made, threads=team.size), quantise(state, hidden, relu=True)]
        return [*ask, *sparse_token(x, hidden, neurons, predictor, out, np.zeros(2, np.int64))]

    programs = [[operation for _ in range(each) for operation in layer()] for _ in range(count)]
    counts = [round(density * shape.n_ff) for density in DENSITIES]
    logits = dequantize(asked.rows(), PREDICTOR)
    timings = [Timing(team, programs, _drawing(rng, hidden, logits, active)) for active in counts]
    n_bytes = asked.nbytes + shape.rank * _row_bytes(PREDICTOR, shape.n_embd)
    read = row + (shape.gated * row + down_row) / 2
    return timings, [active * read for active in counts], float(n_bytes), each


def _predictor_rows(shape: CostShape) -> Tensor:
    """A predictor's second matrix, of chance."""
    numbers = np.random.default_rng(1).standard_normal((shape.n_ff, shape.rank)).astype(np.float32)
    return Tensor("measured", PREDICTOR, numbers.shape, quantize(numbers, PREDICTOR).reshape(-1))


def rate_and_fixed(n_bytes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Bytes a second, and seconds besides, of a line through what was measured."""
    slope, fixed = np.polyfit(n_bytes, seconds, 1)
    if slope <= 0 or fixed < 0:  # noise: all that was measured is the bytes'
        return n_bytes[-1] / seconds[-1], 0.0
    return 1.0 / float(slope), float(fixed)


def _drawing(
    rng: np.random.Generator, hidden: Vectors, matrix: npt.NDArray[np.float32], count: int
) -> Callable[[], None]:
    """A function that makes a predictor let about so many neurons through, partly others at each call, as from token to
    token: what inputs have in common is as much as what they have not.
    """
    common, own = rng.standard_normal(matrix.shape[1]), rng.standard_normal((DRAWS, matrix.shape[1]))
    drawn = np.maximum(common + own, 0).astype(np.float32)
    logits = np.sort(drawn @ matrix.T, axis=1)
    turns = itertools.cycle(drawn / logits[:, -max(1, count), None])

    def draw() -> None:
        hidden.floats[0, : matrix.shape[1]] = next(turns)

    return draw


def _cache(team: Team, shape: CostShape) -> float:
    """Bytes of keys and values a second, in float16."""
    sizes = Shape(shape.n_q // shape.head_dim, shape.n_kv // shape.head_dim, shape.head_dim, POSITIONS)
    cache = KeysValues.make(sizes, CacheType.F16, CacheType.F16)
    cache.k[:], cache.v[:] = 0, 0
    prepare(attention_kernels(CacheType.F16, CacheType.F16))
    state = make_state(1, POSITIONS - 1, np.arange(POSITIONS // PAGE, dtype=np.int32))
    q, out = make_vectors(1, shape.n_q, records=False), make_vectors(1, shape.n_q)
    reads = attention(state.numbers, q.floats, cache, out, team.size, scale=shape.head_dim**-0.5)
    return cache.n_bytes / _timed(team, [[reads]])


def _layer(team: Team, shape: CostShape) -> float:
    """Seconds of a layer's operations besides its matrices' and the FFN's, with next to nothing to read."""
    alone = make_state(1, 0, np.zeros(1, np.int32))
    state, n_embd = alone.numbers, shape.n_embd
    x, normed = make_vectors(1, n_embd), make_vectors(1, n_embd)
    q, attended = (make_vectors(1, shape.n_q) for _ in range(2))
    weight = np.zeros(n_embd, np.float32)
    sizes = Shape(shape.n_q // shape.head_dim, shape.n_kv // shape.head_dim, shape.head_dim, PAGE)
    cache = KeysValues.make(sizes, CacheType.F16, CacheType.F16)
    norm = add_norm(state, x, (), weight, None, normed, 1e-5, NormKind.RMS)
    operations = [
        norm,
        quantise(state, attended),  # for turning queries and keys
        attention(state, q.floats, cache, attended, team.size, scale=shape.head_dim**-0.5),
        quantise(state, attended),
        norm,
    ]
    return _timed(team, [operations * LAYERS]) / LAYERS
