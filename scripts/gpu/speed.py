"""How fast a divided model decodes: against whole layers at the same VRAM, and against what bandwidths allow."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from powerinfer_cli.commands.bench.bandwidth import measure_bandwidth
from powerinfer_cli.placement import MAIN_MEMORY, Plan
from powerinfer_cli.runtime.device.memory import lift_budget
from scripts.gpu.models import Case, plan_for, tokens

__all__ = ["Speed", "bandwidths", "compare", "timeline"]

FFN_SHARE = 0.25
TOKENS = 48
GIB = 1 << 30


@dataclass(frozen=True)
class Speed:
    """what: the model and the comparison. value and target: as the ratio or share that the target is of."""

    what: str
    value: float
    target: float
    seen: str

    @property
    def met(self) -> bool:
        return self.value >= self.target


def bandwidths(device: torch.device, threads: int) -> tuple[float, float]:
    """Bytes a second that the GPU reads of its memory, and that the CPU reads of its own."""
    cpu = measure_bandwidth(threads)
    if device.type != "cuda":
        return cpu, cpu
    lift_budget(device)
    source = torch.empty(4 * GIB, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(8):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best, cpu


def compare(case: Case, gpu: float, cpu: float) -> list[Speed]:
    """gpu, cpu: bytes a second."""
    ffn = sum(layer.ffn for layer in case.sizes.layers)
    budget = case.sizes.total - ffn + round(FFN_SHARE * ffn)
    divided = plan_for(case, [budget])
    layers = plan_for(case, [budget], "layers")
    everything = plan_for(case, [round(case.sizes.total * 1.05)])
    rates = {name: _decode(case, plan) for name, plan in (("d", divided), ("l", layers), ("e", everything))}
    bound = 1 / _least_time(case, divided, gpu, cpu)
    full = 1 / _least_time(case, everything, gpu, cpu)
    return [
        Speed(f"{case.name}: divided / whole layers", rates["d"] / rates["l"], 3.0, _two(rates["d"], rates["l"])),
        Speed(f"{case.name}: divided / what bandwidths allow", rates["d"] / bound, 0.7, _two(rates["d"], bound)),
        Speed(f"{case.name}: all on the GPU / its bandwidth", rates["e"] / full, 0.6, _two(rates["e"], full)),
    ]


def _two(ours: float, other: float) -> str:
    return f"{ours:.1f} and {other:.1f} tokens/s"


def _decode(case: Case, plan: Plan) -> float:
    """Tokens a second."""
    engine = case.load(plan)
    ids = tokens(case, TOKENS + 16)
    engine.prefill(ids[:8])
    for token in ids[8:16]:
        engine.decode(token)
    start = time.perf_counter()
    for token in ids[16:]:
        engine.decode(token)
    return TOKENS / (time.perf_counter() - start)


def _least_time(case: Case, plan: Plan, gpu: float, cpu: float) -> float:
    """Seconds of a token if every layer took the longer of what its bytes take on either side."""
    rate = {MAIN_MEMORY: cpu}
    total = case.sizes.head / rate.get(plan.output, gpu)
    known = max(counts.max() for counts in case.statistics.counts)
    for sizes, placed, counts in zip(case.sizes.layers, plan.layers, case.statistics.counts, strict=True):
        active = counts / known
        hot = float(active[placed.hot].sum()) * sizes.neuron
        cold = float(active.sum()) * sizes.neuron - hot
        total += (sizes.attention + sizes.predictor) / rate.get(placed.device, gpu) + max(hot / gpu, cold / cpu)
    return total


def timeline(case: Case, path: Path) -> str:
    """Three tokens of a divided model, as a trace for chrome://tracing; the kernels that take longest, as a table."""
    ffn = sum(layer.ffn for layer in case.sizes.layers)
    engine = case.load(plan_for(case, [case.sizes.total - ffn + round(FFN_SHARE * ffn)]))
    ids = tokens(case, 16)
    engine.prefill(ids[:8])
    engine.decode(ids[8])
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.device(case.devices[0]).type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for token in ids[9:12]:
            engine.decode(token)
    profiler.export_chrome_trace(str(path))
    key = "self_cuda_time_total" if len(activities) == 2 else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=key, row_limit=15)
    return table
