"""How well the decoding of mixtures is predicted that are divided between a CPU and a device: rehearsed on the CPU.

    OMP_NUM_THREADS=1 python scripts/bench/rehearsal.py MODEL.gguf ...

Some experts are hot on the device "cpu"; one thread. Costs of both sides are measured by the operations that run, and
the two sides work one after the other.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import LayerPlacement, ModelBytes, Placement, Plan, all_neurons, no_neurons
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.device.bytes import model_bytes
from solver.placing import Activity, Work, simulate
from solver.placing.machine import measure_machine
from solver.placing.measure import CostShape
from solver.routing.profile import record_routes

CONTEXT, TOKENS, READ, ROUNDS = 256, 10, 192, 5
SHARES = 0.0, 0.25, 0.5, 0.75, 1.0
WEIGHTS = 16 << 20  # bytes of the device, as its operations are slow here


def plan_of(sizes: ModelBytes, activity: Activity, share: float) -> Plan:
    """The most used experts of each layer on the device, and all else but experts."""
    layers = []
    for layer, frequencies in zip(sizes.layers, activity.frequencies, strict=True):
        order = np.argsort(-frequencies, kind="stable")[: round(share * layer.neurons)]
        hot = np.sort(order).astype(np.int32) if layer.divisible else all_neurons(layer.neurons)
        layers.append(LayerPlacement(0, hot if share or not layer.divisible else no_neurons()))
    return Plan((1 << 40,), tuple(layers), 0, "greedy", "")


def decoded(engine: Engine, ids: list[int]) -> float:
    """Seconds of a token, the middle one of some."""
    engine.reset()
    times = []
    for token in ids:
        start = time.perf_counter()
        engine.decode(token)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def rehearse(path: Path) -> None:
    """A line for each share of hot experts: costs and tokens are timed in turn, as the machine's speed wanders."""
    model = load_model(open_gguf(path))
    options = EngineOptions(n_ctx=CONTEXT, n_threads=1)
    sizes, config = model_bytes(model, options, CONTEXT), model.config
    kind, head = model.layers[-1].ffn.neurons.up.weight.type, model.head.weight.type
    ids = [int(i) for i in np.random.default_rng(0).integers(0, config.n_vocab, READ)]
    engine = Engine(model, options)
    trace = record_routes(engine, model, [ids], LoadEvents(), "")
    engine.close()
    counts = zip(trace.layers, trace.n_experts, trace.chosen, strict=True)
    uses = {i: np.bincount(one.ravel(), minlength=n) / trace.tokens for i, n, one in counts}
    activity = Activity(tuple(uses.get(i, np.ones(layer.neurons)) for i, layer in enumerate(sizes.layers)))
    work = Work(sizes, activity, kind.name, config.n_embd, TOKENS / 2 / CONTEXT, head.name)
    plans = [plan_of(sizes, activity, share) for share in SHARES]
    engines = [Engine(model, options, placement=Placement(plan, ("cpu",))) for plan in plans]
    found: list[list[tuple[float, float, float]]] = [[] for _ in SHARES]
    for _ in range(ROUNDS):
        profile = measure_machine(["cpu"], (kind, head), CostShape.of(model), budgets=[2 * WEIGHTS], threads=1)
        for plan, engine, seen in zip(plans, engines, found, strict=True):
            predicted = simulate(plan, work, profile)
            covered = statistics.mean(layer.covered for layer in predicted.layers)
            seen.append((predicted.seconds, decoded(engine, ids[:TOKENS]), covered))
    for share, seen in zip(SHARES, found, strict=True):
        predicted, measured = (statistics.median(one[side] for one in seen) for side in (0, 1))
        ratios = sorted(one[0] / one[1] - 1 for one in seen)
        print(
            f"{path.name}: {share:.0%} hot, {seen[0][2]:.0%} of the uses: predicted {predicted * 1e3:6.1f} ms, "
            f"measured {measured * 1e3:6.1f} ms, {statistics.median(ratios):+.0%} "
            f"({', '.join(f'{one:+.0%}' for one in ratios)})",
            flush=True,
        )


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        rehearse(Path(path))


if __name__ == "__main__":
    main()
