"""What a GPU costs, and the way to it: the engine's own operations on that device, timed."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.device import Ops, PlanarRows, make_cache, ops_for, planar_bytes, to_planar
from powerinfer_cli.kernels.device.reference import DeviceNeurons
from powerinfer_cli.kernels.reference import route
from powerinfer_cli.model import Activation, NormKind
from powerinfer_cli.model.blocks import Linear, Neurons, Router
from powerinfer_cli.runtime.device.link import Link as Way
from powerinfer_cli.runtime.device.link import Recorder, Replay
from powerinfer_cli.runtime.device.memory import device_memory, device_name, is_unified
from solver.placing.device_profile import ANY_TYPE, Link, Processor, Rates
from solver.placing.measure import DENSITIES, CostShape, rate_and_fixed
from solver.placing.measure_experts import expert_line, expert_router, expert_rows, with_experts

__all__ = ["measure_gpu", "measure_link"]

WEIGHTS = 512 << 20  # bytes, of each kind of product: more than a GPU's caches hold
HEADS, HEAD_DIM, POSITIONS = 32, 128, 4096
SCALE = HEAD_DIM**-0.5
COPY = 64 << 20  # bytes
ROUNDS = 5
LEAST_RUNS, LONG_ENOUGH = 10, 0.1  # of each measurement; seconds
TOKEN = 5e-5  # seconds: launches between two tokens


def measure_gpu(
    device: torch.device,
    kinds: Sequence[GGMLType] = (GGMLType.Q4_0,),
    n_embd: int = 4096,
    budget: int | None = None,
    on_step: Callable[[str], None] | None = None,
    shape: CostShape | None = None,
) -> Processor:
    """Time a device's parts. The first of `kinds` stands for all others. Any device will do, "cpu" to rehearse.

    n_embd: numbers in a row. budget: bytes; about half of them are used at most. shape: of a model, for its experts.
    Raises RuntimeError: its memory is full.
    """
    bench = _Bench(device, n_embd, WEIGHTS if budget is None else min(WEIGHTS, budget // 2))
    rates, ffn, experts = {}, [], {}
    for kind in dict.fromkeys(kinds):
        if on_step:
            on_step(f"{device}: {kind.name}")
        scattered, fixed = bench.scattered(kind)
        rates[kind.name] = Rates(bench.dense(kind), scattered)
        ffn.append(fixed)
        if shape is not None and expert_rows(kind, shape):
            experts[kind.name] = bench.experts(kind, shape)
    found = Processor(
        name=device_name(device),
        memory=device_memory(device),
        rates=rates | {ANY_TYPE: rates[kinds[0].name]},
        cache=bench.cache(),
        layer=bench.layer(),
        ffn=sum(ffn) / len(ffn),
        token=TOKEN,
    )
    return with_experts(found, experts)


def measure_link(device: torch.device, n_embd: int = 4096) -> Link:
    """Time copies to and from a device, and what a layer that is divided does between its two sides."""
    bench = _Bench(device, n_embd, 0)
    there, here = torch.zeros(COPY, dtype=torch.uint8, device=device), bench.way.host(COPY, dtype=torch.uint8)
    copied = bench.seconds([lambda: bench.way.copy(there, here), lambda: bench.way.copy(here, there)], graph=False)
    bandwidth = 2 * COPY / copied
    x, seen = torch.zeros(n_embd, device=device), bench.way.host(n_embd)
    work = Replay(Recorder(device), [lambda: x.mul_(1.0)])

    def divided() -> None:
        """As the hybrid backend: the layer's input goes out, is waited for, and a part of the sum comes back."""
        work()
        bench.way.copy(seen, x)
        bench.way.mark()
        bench.way.wait()
        bench.way.copy(x, seen)

    seconds = bench.seconds([divided], graph=False)
    synchronisation = max(0.0, seconds - 2 * 4 * n_embd / bandwidth)
    return Link(bandwidth, synchronisation, rehearsed=device.type == "cpu", unified=is_unified(device))


class _Bench:
    """weights: bytes, of each kind of product."""

    def __init__(self, device: torch.device, n_embd: int, weights: int) -> None:
        self.device, self.n_embd, self.weights = device, n_embd, weights
        self.ops: Ops = ops_for(device)
        self.way = Way(device)

    def dense(self, kind: GGMLType) -> float:
        """Bytes a second of matrices from front to back."""
        n_rows = max(1, self.weights // planar_bytes(kind, 1, self.n_embd))
        rows, x, out = self._weights(kind, n_rows), self._zeros(self.n_embd), self._zeros(n_rows)
        return planar_bytes(kind, n_rows, self.n_embd) / self.seconds([lambda: self.ops.matvec(rows, x, out=out)])

    def scattered(self, kind: GGMLType) -> tuple[float, float]:
        """Bytes a second of active neurons' rows, and seconds that an FFN costs besides."""
        n_ff = max(32, self.weights // 3 // planar_bytes(kind, 1, self.n_embd))
        gate, up, down = (self._weights(kind, n_ff) for _ in range(3))
        x, out, fires = self._zeros(self.n_embd), self._zeros(self.n_embd), torch.ones(n_ff, device=self.device)
        neurons: DeviceNeurons = Neurons(
            n_ff, Linear(gate, fires), Linear(up, None), Linear(down, None), transposed=True, activation=Activation.RELU
        )
        drawn = torch.randperm(n_ff, generator=torch.Generator().manual_seed(0))
        neuron, n_bytes, seconds = 3 * planar_bytes(kind, 1, self.n_embd), [], []
        for density in DENSITIES:
            count = round(density * n_ff)
            mask = torch.zeros(n_ff, dtype=torch.uint8)
            mask[drawn[:count]] = 1
            there = mask.to(self.device)
            n_bytes.append(float(count * neuron))
            seconds.append(self.seconds([self._sparse_ffn(x, there, neurons, out)]))
        return rate_and_fixed(n_bytes, seconds)

    def _sparse_ffn(self, x: Tensor, mask: Tensor, neurons: DeviceNeurons, out: Tensor) -> Callable[[], object]:
        return lambda: self.ops.sparse_ffn(x, mask, neurons, out=out)

    def experts(self, kind: GGMLType, shape: CostShape) -> tuple[float, float]:
        """Bytes a second of those of a token's experts that are here, and seconds that choosing them costs besides."""
        sizes, k = expert_rows(kind, shape), shape.n_chosen
        expert = sum(planar_bytes(kind, *size) for size in sizes)
        n = min(shape.n_experts, max(k, self.weights // expert))
        made: list[Linear[PlanarRows, Tensor]] = [
            Linear(self._weights(kind, n * rows, columns), None) for rows, columns in sizes
        ]
        gate, n_ff = made[0] if shape.gated else None, n * sizes[0][0]
        neurons = Neurons(n_ff, gate, made[-2], made[-1], transposed=False, activation=Activation.SILU)
        logits = torch.randn(1, shape.n_experts, generator=torch.Generator().manual_seed(0)).to(self.device)
        x, out, router = self._zeros(1, self.n_embd), self._zeros(1, self.n_embd), expert_router(k)
        chosen, _ = route(logits, router)
        n_bytes, seconds = [], []
        for count in sorted({max(1, k // 4), max(1, k // 2), k}):
            slots = torch.full((shape.n_experts,), -1, dtype=torch.int64, device=self.device)
            slots[chosen[0, :count]] = torch.arange(count, device=self.device) * (n // count)
            n_bytes.append(float(count * expert))
            work = partial(self._token_of_experts, x, logits, router, slots, neurons, out)
            seconds.append(self.seconds([work]))
        return expert_line(n_bytes, seconds)

    def _token_of_experts(
        self,
        x: Tensor,
        logits: Tensor,
        router: Router[Any, Any],
        slots: Tensor,
        neurons: DeviceNeurons,
        out: Tensor,
    ) -> None:
        self.ops.add_experts(x, *route(logits, router), slots, neurons, out)

    def cache(self) -> float:
        """Bytes of keys and values a second, in float16."""
        cache = make_cache(HEADS, POSITIONS, HEAD_DIM, CacheType.F16, CacheType.F16, self.device)
        q, last = self._zeros(1, HEADS * HEAD_DIM), torch.tensor([POSITIONS - 1], device=self.device)
        pages = torch.arange(POSITIONS // PAGE, device=self.device)
        return cache.nbytes / self.seconds([lambda: self.ops.attention(q, cache, last, pages, scale=SCALE)])

    def layer(self) -> float:
        """Seconds of a layer's operations besides the FFN's, with next to nothing to read."""
        ops, tiny = self.ops, self._weights(GGMLType.F32, 64, 64)
        cache = make_cache(HEADS, PAGE, HEAD_DIM, CacheType.F16, CacheType.F16, self.device)
        q, past = self._zeros(1, HEADS * HEAD_DIM), torch.tensor([0], device=self.device)
        x, weight, few = self._zeros(self.n_embd), self._zeros(self.n_embd), self._zeros(64)
        return self.seconds(
            [
                lambda: ops.add_norm(x, (), weight, None, 1e-5, NormKind.RMS),
                *[lambda: ops.matvec(tiny, few)] * 3,
                lambda: ops.rope_store(q, q, q, cache, past, past, None, None, None),
                lambda: ops.attention(q, cache, past, past, scale=SCALE),
                lambda: ops.matvec(tiny, few),
                lambda: ops.add_norm(x, (), weight, None, 1e-5, NormKind.RMS),
                lambda: ops.predict(tiny, tiny, few, 0.0),
            ]
        )

    def seconds(self, work: Sequence[Callable[[], object]], *, graph: bool = True) -> float:
        """Of the work, a quarter of whose runs took less; on CUDA replayed from a graph, unless it cannot be."""
        replay = Replay(Recorder(self.device), list(work) * ROUNDS)
        run = replay if graph else replay.run
        run()  # compiles, and records
        times: list[float] = []
        while len(times) <= LEAST_RUNS or sum(times) < LONG_ENOUGH:
            start = time.perf_counter()
            run()
            self.way.mark()
            self.way.wait()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[len(times) // 4] / ROUNDS

    def _weights(self, kind: GGMLType, n_rows: int, n_cols: int = 0) -> PlanarRows:
        """Zeros: how long a product takes does not depend on the numbers."""
        n_cols = n_cols or self.n_embd
        size, n_bytes = BLOCK[kind]
        row = torch.zeros(1, n_cols // size * n_bytes, dtype=torch.uint8, device=self.device)
        return to_planar(row.expand(n_rows, -1), kind, n_cols)  # one row for all, which become many there

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device)
