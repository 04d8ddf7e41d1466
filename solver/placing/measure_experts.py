"""What experts cost on the CPU: the engine's own operations on chosen ones, timed.

As many experts as a model's layer has, or as a cache does not hold; which are chosen is drawn anew for every run.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.arena import Arena
from powerinfer_cli.kernels.cpu.experts.asking import ask_for_experts
from powerinfer_cli.kernels.cpu.experts.routing import make_routes, route
from powerinfer_cli.kernels.cpu.experts.token import ExpertRoom, ExpertRows, experts_token
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.packing import bundles, pack, packed_bytes, packing_kernels
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.segments import make_state
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_records, make_vectors
from powerinfer_cli.kernels.formats import BUNDLE
from powerinfer_cli.kernels.jit import prepare
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.kernels.jit.team import TEAM_KERNELS, Team
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Gating, Linear, Neurons, Router
from powerinfer_cli.runtime.threads import default_threads
from solver.placing import measure
from solver.placing.device_profile import ANY_TYPE, Processor
from solver.placing.measure import ROUNDS, CostShape, Timing, rate_and_fixed, zeros

__all__ = ["cpu_with_experts", "expert_line", "expert_router", "expert_rows", "with_experts"]

DRAWS = 16

Floats = npt.NDArray[np.float32]


def cpu_with_experts(
    cpu: Processor,
    kinds: Sequence[GGMLType],
    shape: CostShape,
    threads: int | None = None,
    cores: Sequence[frozenset[int]] = (),
    on_step: Callable[[str], None] | None = None,
) -> Processor:
    """A CPU's costs, with those of experts of these types; as it is, where the shape has none."""
    if not shape.n_experts:
        return cpu
    team = Team(threads or default_threads(tuple(cores)), cores, steady=True)
    try:
        found = {}
        for kind in dict.fromkeys(kinds):
            if expert_rows(kind, shape):
                if on_step:
                    on_step(f"CPU: experts, {kind.name}")
                prepare([*TEAM_KERNELS, *packing_kernels([kind], whole=[kind])])
                found[kind.name] = _on_cpu(team, kind, shape)
    finally:
        team.close()
    return with_experts(cpu, found)


def with_experts(on: Processor, found: dict[str, tuple[float, float]]) -> Processor:
    """found: by type, bytes of experts a second, and seconds besides; the first stands for all others."""
    if not found:
        return on
    first_rate, fixed = next(iter(found.values()))
    rates = {name: replace(rate, experts=found.get(name, (first_rate, 0))[0]) for name, rate in on.rates.items()}
    return replace(on, rates=rates | {ANY_TYPE: replace(on.rates[ANY_TYPE], experts=first_rate)}, experts=fixed)


def expert_rows(kind: GGMLType, shape: CostShape) -> list[tuple[int, int]]:
    """Rows and columns of one expert's matrices, down the last; none, where there are no experts, or where their rows
    are no whole blocks of a type.
    """
    ff = shape.n_ff // max(1, shape.n_chosen)
    if not shape.n_experts or ff % BLOCK[kind][0]:
        return []
    return [(ff, shape.n_embd)] * (1 + shape.gated) + [(shape.n_embd, ff)]


def _counts(n_here: int, n_chosen: int) -> list[int]:
    """How many are chosen where costs are timed."""
    return sorted({min(n_here, count) for count in (max(1, n_chosen // 2), n_chosen, 2 * n_chosen)})


def expert_line(n_bytes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """As `rate_and_fixed`, also of one number."""
    return rate_and_fixed(n_bytes, seconds) if len(n_bytes) > 1 else (n_bytes[0] / seconds[0], 0.0)


def expert_router(n_chosen: int) -> Router[Any, Any]:
    """One that is given logits."""
    return Router(Linear(None, None), n_chosen, Gating.SOFTMAX, normed=True)


def _on_cpu(team: Team, kind: GGMLType, shape: CostShape) -> tuple[float, float]:
    """Bytes a second of chosen experts, and seconds that choosing them and barriers take."""
    sizes = expert_rows(kind, shape)
    n_embd, ff = sizes[-1]
    expert = sum(zeros(kind, *size).nbytes for size in sizes)
    n_here = min(shape.n_experts, max(shape.n_chosen, measure.WEIGHTS // expert))
    count = max(1, min(shape.n_layer, measure.WEIGHTS // (expert * n_here)))
    tensors = [zeros(kind, n_here * rows, columns) for rows, columns in sizes]
    whole = Bundled.WHOLE if bundles(kind) and not any(rows % BUNDLE for rows, _ in sizes) else None
    arena = Arena(count * sum(packed_bytes(one, bundled=whole is not None) for one in tensors))
    state = make_state(1, 0, np.zeros(1, np.int32)).numbers
    x, out = make_vectors(1, n_embd), make_vectors(1, n_embd, records=False).floats
    layers = []
    for _ in range(count):
        packed: list[Linear[WeightRows, Floats]] = [
            Linear(pack(one, team, arena=arena, bundled=whole), None) for one in tensors
        ]
        gate = packed[0] if shape.gated else None
        layers.append(Neurons(n_here * ff, gate, packed[-2], packed[-1], transposed=False, activation=Activation.SILU))
    counts = _counts(n_here, shape.n_chosen)
    timings = [_of_count(team, layers, state, x, out, n_here, chosen) for chosen in counts]
    for number in range(ROUNDS):
        for one in timings if number % 2 == 0 else timings[::-1]:
            one.run(1 / ROUNDS)
    return expert_line([float(chosen * expert) for chosen in counts], [one.seconds for one in timings])


def _of_count(
    team: Team,
    layers: Sequence[ExpertRows],
    state: npt.NDArray[np.int64],
    x: Vectors,
    out: Floats,
    n_here: int,
    n_chosen: int,
) -> Timing:
    """A layer's FFN, of so many chosen experts."""
    routes = make_routes(1, n_here, n_chosen)
    gate, up = (make_vectors(n_chosen, layers[0].n_ff // n_here, records=False) for _ in range(2))
    room = ExpertRoom(gate, up, replace(up, records=make_records(n_chosen, layers[0].n_ff // n_here)))

    def program(neurons: ExpertRows) -> list[Operation]:
        chosen = [quantise(state, x), *route(state, expert_router(n_chosen), routes), *ask_for_experts(neurons, routes)]
        return [*chosen, *experts_token(state, x, neurons, routes, room, out, add=False, threads=team.size)]

    rng = np.random.default_rng(0)
    logits = itertools.cycle(rng.standard_normal((DRAWS, n_here)).astype(np.float32))

    def draw() -> None:
        routes.logits.floats[0, :n_here] = next(logits)

    return Timing(team, [program(neurons) for neurons in layers], draw)
