"""Time norms, rope and attention of one layer, as decode and prefill run them. Usage: attention.py [threads]"""

import sys
import time

import numpy as np

from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import Angles, rope
from powerinfer_cli.kernels.cpu.norm import add_norm, quantise
from powerinfer_cli.kernels.cpu.segments import make_state
from powerinfer_cli.kernels.cpu.vectors import make_vectors
from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.model import NormKind, RopeStyle

COPIES = 22  # as many layers, so that a cache is not in the CPU's own cache when it is read again


def microseconds(team: Team, operations: list[Operation], repeats: int) -> float:
    """Of one operation, the least of several runs."""
    table = assemble(operations).table
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        team.run(table)
        times.append(time.perf_counter() - start)
    return min(times) / len(operations) * 1e6


def decode(team: Team, name: str, shape: Shape, kind: CacheType, depth: int) -> None:
    n = shape.n_head * shape.head_dim
    alone = make_state(1, depth, np.arange(shape.n_ctx // PAGE, dtype=np.int32))
    state = alone.numbers
    q, k, v, out = (make_vectors(1, n) for _ in range(4))
    q.floats[:] = np.random.default_rng(0).standard_normal(q.floats.shape)
    caches = [KeysValues.make(shape, kind, kind) for _ in range(COPIES)]
    for cache in caches:
        for part in (cache.k, cache.v, cache.k_scales, cache.v_scales):
            part[:] = 1
    angles = Angles(1, 10000.0 ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim), 1.0)
    angles.fill(np.array([depth]))
    weight = np.ones(n, np.float32)
    moved = caches[0].n_bytes * (depth + 1) / shape.n_ctx
    took = microseconds(team, [attention(state, q.floats, c, out, team.size) for c in caches], 10)
    turn = [rope(state, q.floats, k.floats, v.floats, c, angles, RopeStyle.INTERLEAVED) for c in caches]
    norms = [add_norm(state, q, (k.floats,), weight, None, out, 1e-5, NormKind.RMS)] * COPIES
    line = [
        f"attention {took:7.1f} us, {moved / took / 1e3:5.1f} GB/s",
        f"rope {microseconds(team, turn, 30):5.2f} us",
        f"norm {microseconds(team, norms, 30):5.2f} us",
        f"quantise {microseconds(team, [quantise(state, q)] * COPIES, 30):5.2f} us",
        f"nothing {microseconds(team, [quantise(state * 0, q)] * COPIES, 30):5.2f} us",
    ]
    print(f"decode  {name} {kind} depth {depth}: " + "; ".join(line))


def prefill(team: Team, name: str, shape: Shape, kind: CacheType, depth: int) -> None:
    n = shape.n_head * shape.head_dim
    n_tokens = 512
    alone = make_state(n_tokens, depth, np.arange(shape.n_ctx // PAGE, dtype=np.int32))
    state = alone.numbers
    q, k, v, out = (make_vectors(n_tokens, n) for _ in range(4))
    q.floats[:] = np.random.default_rng(0).standard_normal(q.floats.shape)
    cache = KeysValues.make(shape, kind, kind)
    angles = Angles(n_tokens, 10000.0 ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim), 1.0)
    angles.fill(np.arange(depth, depth + n_tokens))
    weight = np.ones(n, np.float32)
    work = 4 * n * (n_tokens * depth + n_tokens * (n_tokens + 1) / 2)
    took = microseconds(team, [attention(state, q.floats, cache, out, team.size)], 5)
    turn = microseconds(team, [rope(state, q.floats, k.floats, v.floats, cache, angles, RopeStyle.INTERLEAVED)], 5)
    norm = microseconds(team, [add_norm(state, q, (k.floats,), weight, None, out, 1e-5, NormKind.RMS)], 5)
    print(
        f"prefill {name} {kind} {n_tokens} tokens behind {depth}: attention {took / 1e3:.2f} ms, "
        f"{work / took / 1e3:.0f} GFLOP/s; rope {turn / 1e3:.2f} ms; norm {norm / 1e3:.2f} ms"
    )


def main() -> None:
    team = Team(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    shapes = {"1.1B": Shape(32, 4, 64, 2048), "7B": Shape(32, 32, 128, 2048)}
    for name, shape in shapes.items():
        for kind in CacheType:
            decode(team, name, shape, kind, 1500)
        prefill(team, name, shape, CacheType.F16, 0)
        prefill(team, name, shape, CacheType.Q8_0, 1024)


if __name__ == "__main__":
    main()
