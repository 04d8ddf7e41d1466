"""What this machine's CPU costs: the engine's own kernels, timed on weights that no cache holds."""

import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor
from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.attention import attention, attention_kernels
from powerinfer_cli.kernels.cpu.matvec import matvec
from powerinfer_cli.kernels.cpu.norm import add_norm, quantise
from powerinfer_cli.kernels.cpu.packing import pack, packing_kernels
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.segments import make_state
from powerinfer_cli.kernels.cpu.sparse_token import ALWAYS, NEVER, Predictor, sparse_token
from powerinfer_cli.kernels.cpu.vectors import make_vectors
from powerinfer_cli.kernels.jit import prepare
from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.kernels.jit.team import TEAM_KERNELS, Team
from powerinfer_cli.model import Activation, NormKind
from powerinfer_cli.model.blocks import Linear, Neurons
from powerinfer_cli.runtime.threads import default_threads
from solver.placing.device_profile import ANY_TYPE, Processor, Rates

__all__ = ["DENSITIES", "measure_cpu", "rate_and_fixed"]

WEIGHTS = 192 << 20  # bytes, of each kind of product
DENSITIES = 0.05, 0.1, 0.2  # shares of active neurons: the slope over them is what a neuron costs
DRAWS = 8  # of active neurons
SETS = 3  # layers
POSITIONS = 2048
HEADS, HEAD_DIM = 32, 128
SCALE = HEAD_DIM**-0.5
LAYERS = 8  # in a program of small operations
LEAST_RUNS, MOST_RUNS, LONG_ENOUGH = 15, 1000, 0.2  # of each measurement; seconds
TOKEN = 1.5e-4  # seconds: Python between two tokens


def measure_cpu(
    kinds: Sequence[GGMLType] = (GGMLType.Q4_0,),
    n_embd: int = 4096,
    threads: int | None = None,
    cores: Sequence[frozenset[int]] = (),
    on_step: Callable[[str], None] | None = None,
) -> Processor:
    """Time the CPU engine's parts, a second or so for each weight type. The first of `kinds` stands for all others.

    n_embd: numbers in a row, a whole number of blocks of each type. threads: None for one per physical core. cores:
    where each may run. Raises MemoryError.
    """
    team = Team(threads or default_threads(tuple(cores)), cores)
    say = on_step or (lambda _: None)
    try:
        rates, ffn = {}, []
        for kind in dict.fromkeys(kinds):
            say(f"CPU: {kind.name}")
            prepare([*TEAM_KERNELS, *packing_kernels([kind])])
            scattered, fixed = _scattered(team, kind, n_embd)
            rates[kind.name] = Rates(_dense(team, kind, n_embd), scattered)
            ffn.append(fixed)
        say("CPU: attention")
        return Processor(
            name=platform.processor() or platform.machine() or "CPU",
            memory=0,
            rates=rates | {ANY_TYPE: rates[kinds[0].name]},
            cache=_cache(team),
            layer=_layer(team, n_embd),
            ffn=statistics.mean(ffn),
            token=TOKEN,
        )
    finally:
        team.close()


def _weights(team: Team, kind: GGMLType, n_rows: int, n_cols: int) -> WeightRows:
    """Zeros: how long a product takes does not depend on the numbers."""
    block_size, block_bytes = BLOCK[kind]
    data = np.full(n_rows * n_cols // block_size * block_bytes, 0, np.uint8)  # written to, so that pages are there
    return pack(Tensor("measured", kind, (n_rows, n_cols), data), team)


def _row_bytes(kind: GGMLType, n_cols: int) -> int:
    block_size, block_bytes = BLOCK[kind]
    return n_cols // block_size * block_bytes


def _timed(team: Team, operations: Sequence[Operation], before: Callable[[], None] = lambda: None) -> float:
    """Seconds that three of four runs take more than: what other programs do to the others is not the machine's."""
    prepare(operation.kernel for operation in operations)
    program = assemble(operations)
    team.run(program.table)
    times: list[float] = []
    while len(times) < LEAST_RUNS or (sum(times) < LONG_ENOUGH and len(times) < MOST_RUNS):
        before()
        start = time.perf_counter()
        team.run(program.table)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 4]


def _dense(team: Team, kind: GGMLType, n_embd: int) -> float:
    """Bytes a second of matrices from front to back, of about a layer's sizes: each has a beginning and an end."""
    n_rows = 2 * n_embd
    n_bytes = n_rows * _row_bytes(kind, n_embd)
    x, out = make_vectors(1, n_embd), np.zeros(n_rows, np.float32)
    weights = [_weights(team, kind, n_rows, n_embd) for _ in range(max(2, WEIGHTS // n_bytes))]
    return len(weights) * n_bytes / _timed(team, [matvec(rows, x, out, threads=team.size) for rows in weights])


def _scattered(team: Team, kind: GGMLType, n_embd: int) -> tuple[float, float]:
    """Bytes a second of active neurons' rows, and seconds that an FFN costs besides."""
    n_ff = WEIGHTS // SETS // 3 // _row_bytes(kind, n_embd)
    x, hidden, out = make_vectors(1, n_embd), make_vectors(1, 32), make_vectors(1, n_embd).floats[0]
    fires = np.ones(n_ff, np.float32)  # a bias: every neuron that is let through fires
    asked = _weights(team, GGMLType.F32, n_ff, 32)
    operations: list[Operation] = []
    modes = [np.zeros(n_ff, np.uint8) for _ in range(SETS)]
    for mode in modes:
        gate, up, down = (_weights(team, kind, n_ff, n_embd) for _ in range(3))
        neurons = Neurons(n_ff, Linear(gate, fires), Linear(up, None), Linear(down, None), True, Activation.RELU)
        operations += sparse_token(x, hidden, neurons, Predictor(asked, mode, 0.0), out, np.zeros(2, np.int64))
    counts = [round(density * n_ff) for density in DENSITIES]
    seconds = [_timed(team, operations, _drawing(modes, count)) / SETS for count in counts]
    return rate_and_fixed([count * 3 * _row_bytes(kind, n_embd) for count in counts], seconds)


def rate_and_fixed(n_bytes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Bytes a second, and seconds besides, of a line through what was measured."""
    slope, fixed = np.polyfit(n_bytes, seconds, 1)
    if slope <= 0 or fixed < 0:  # noise: all that was measured is the bytes'
        return n_bytes[-1] / seconds[-1], 0.0
    return 1.0 / float(slope), float(fixed)


def _drawing(modes: list[npt.NDArray[np.uint8]], count: int) -> Callable[[], None]:
    """A function that lets so many neurons of each layer through, others at each call, so that no cache has them."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        masks = [np.full(mode.size, NEVER, np.uint8) for mode in modes]
        for mask in masks:
            mask[rng.permutation(mask.size)[:count]] = ALWAYS
        drawn.append(masks)
    turns = itertools.cycle(drawn)

    def draw() -> None:
        for mode, mask in zip(modes, next(turns), strict=True):
            mode[:] = mask

    return draw


def _cache(team: Team) -> float:
    """Bytes of keys and values a second, in float16."""
    shape = Shape(HEADS, HEADS, HEAD_DIM, POSITIONS)
    cache = KeysValues.make(shape, CacheType.F16, CacheType.F16)
    cache.k[:], cache.v[:] = 0, 0
    prepare(attention_kernels(CacheType.F16, CacheType.F16))
    n = HEADS * HEAD_DIM
    state = make_state(1, POSITIONS - 1, np.arange(POSITIONS // PAGE, dtype=np.int32))
    q, out = make_vectors(1, n, records=False), make_vectors(1, n)
    return cache.n_bytes / _timed(team, [attention(state.numbers, q.floats, cache, out, team.size, scale=SCALE)])


def _layer(team: Team, n_embd: int) -> float:
    """Seconds of a layer's operations besides the FFN's, with next to nothing to read."""
    alone = make_state(1, 0, np.zeros(1, np.int32))
    state = alone.numbers
    x, normed = make_vectors(1, n_embd), make_vectors(1, n_embd)
    q, attended = (make_vectors(1, HEADS * HEAD_DIM) for _ in range(2))
    tiny, out, weight = _weights(team, GGMLType.F32, 64, 64), np.zeros(64, np.float32), np.zeros(n_embd, np.float32)
    cache = KeysValues.make(Shape(HEADS, HEADS, HEAD_DIM, PAGE), CacheType.F16, CacheType.F16)
    few = make_vectors(1, 64)
    norm = add_norm(state, x, (), weight, None, normed, 1e-5, NormKind.RMS)
    product = matvec(tiny, few, out, threads=team.size)
    operations = [
        norm,
        product,
        attention(state, q.floats, cache, attended, team.size, scale=SCALE),
        quantise(state, attended),
        product,
        norm,
        product,
        quantise(state, attended),
    ]
    return _timed(team, operations * LAYERS) / LAYERS
