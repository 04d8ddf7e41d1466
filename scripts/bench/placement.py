"""How long planning takes, and how well decoding times are predicted.

python scripts/bench/placement.py solve [LAYERS NEURONS]     80 x 28,672 unless told otherwise
python scripts/bench/placement.py decode MODEL.gguf ...      predicted and measured, on this machine's CPU
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import ActivationStatistics, LayerBytes, ModelBytes, main_memory_plan
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.runtime.device.bytes import model_bytes
from solver.placing import (
    Activity,
    DeviceProfile,
    Link,
    PlanSettings,
    Work,
    always_active,
    load_profile,
    make_plan,
    simulate,
)
from solver.placing.measure import CostShape, measure_cpu

GIB = 1 << 30
N_EMBD = 8192  # of a 70B
CONTEXT, TOKENS, ROUNDS = 512, 32, 6
LONG_ENOUGH = 1.0  # seconds of tokens in a round: what the machine does in it should be what it did for the costs


def solve(n_layer: int, n_ff: int) -> None:
    """Plans for a model of 70B's shape, Q4_0, one token in ten active."""
    neuron = 3 * N_EMBD * 18 // 32
    layer = LayerBytes(attention=85 << 20, predictor=45 << 20, kv=8 << 20, neuron=neuron, neurons=n_ff)
    sizes = ModelBytes((layer,) * n_layer, head=150 << 20, scratch=300 << 20)
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(n_layer):
        exponent = rng.uniform(0.3, 0.9)
        frequencies = np.minimum(1.0, (np.arange(1, n_ff + 1) / n_ff) ** -exponent * 0.1 * (1 - exponent))
        counts.append(np.round(rng.permutation(frequencies) * 20_000))
    profile = load_profile("rtx-4090-ddr5")
    settings = PlanSettings(kind="Q4_0", n_embd=N_EMBD)
    for budgets in ([24 * GIB], [16 * GIB], [12 * GIB, 12 * GIB], [40 * GIB]):
        start = time.perf_counter()
        found = make_plan(sizes, ActivationStatistics(tuple(counts)), budgets, profile, settings)
        seconds = time.perf_counter() - start
        others = ", ".join(f"{name} {other.tokens_per_second:.1f}" for name, other in found.others.items())
        print(
            f"{' + '.join(f'{b / GIB:g}' for b in budgets):>8} GiB: {seconds:5.1f} s, HiGHS {found.seconds:4.1f} s, "
            f"{found.prediction.tokens_per_second:5.1f} tok/s within {found.gap:.3%} of the best ({others})",
            flush=True,
        )


def decode(path: Path) -> None:
    """Costs and tokens are timed in turn, as the machine's speed wanders; three of four runs take more."""
    gguf = open_gguf(path)
    model = load_model(gguf)
    config = model.config
    options = EngineOptions(n_ctx=CONTEXT)
    engine = Engine.load(gguf, options)
    kind, head = model.layers[0].ffn.neurons.up.weight.type, model.head.weight.type
    sizes = model_bytes(model, options, CONTEXT)
    ids = [int(i) for i in np.random.default_rng(0).integers(0, config.n_vocab, TOKENS)]
    plan = main_memory_plan(config.n_layer)
    for _ in range(ROUNDS):
        cpu = measure_cpu([kind, head], CostShape.of(model))
        profile = DeviceProfile("measured", "", cpu, (), Link(1e9, 0.0))
        engine.reset()
        engine.stats.reset()
        times = []
        for token in ids:
            start = time.perf_counter()
            engine.decode(token)
            times.append(time.perf_counter() - start)
            if sum(times) > LONG_ENOUGH:
                break
        activity, active = always_active(sizes.layers), engine.stats.mean_active
        if active is not None:
            let_through, fired = engine.stats.shares(config.n_layer)
            frequencies = tuple(np.full(n_ff, share) for n_ff, share in zip(config.n_ff, fired, strict=True))
            activity = Activity(frequencies, let_through=tuple(map(float, let_through)))
        work = Work(sizes, activity, kind.name, config.n_embd, TOKENS / 2 / CONTEXT, head.name)
        found = simulate(plan, work, profile)
        measured = statistics.quantiles(times, n=4)[0]
        rates = cpu.rates_for(kind.name)
        print(
            f"{path.name}: predicted {found.seconds * 1e3:6.2f} ms, measured {measured * 1e3:6.2f} ms, "
            f"{found.seconds / measured - 1:+.0%} (weights {rates.dense / 1e9:.1f} GB/s, neurons "
            f"{rates.scattered / 1e9:.1f} GB/s, a layer {cpu.layer * 1e6:.0f} us, an FFN {cpu.ffn * 1e6:.0f} us)",
            flush=True,
        )


def main() -> None:
    command, *rest = sys.argv[1:] or ["solve"]
    if command == "solve":
        n_layer, n_ff = map(int, rest) if rest else (80, 28672)
        solve(n_layer, n_ff)
    elif command == "decode" and rest:
        for path in rest:
            decode(Path(path))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
