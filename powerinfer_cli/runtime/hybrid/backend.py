"""The hybrid backend: layers on GPUs, with hot neurons or experts; cold ones, and what else is left, on the CPU."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime.backend import Hidden, Logits, Parts, Watch, WatchRoutes
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.context.cache_size import overflowing
from powerinfer_cli.runtime.context.pages import Held
from powerinfer_cli.runtime.context.saved import Stored
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.memory import keep_budget, told_when_full
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.device.weights import Uploader
from powerinfer_cli.runtime.hybrid.adaptive import Adaptive, adapting_layers
from powerinfer_cli.runtime.hybrid.cache_overflow import CacheOverflow
from powerinfer_cli.runtime.hybrid.cold_side import ColdSide
from powerinfer_cli.runtime.hybrid.counting import Counting
from powerinfer_cli.runtime.hybrid.cpu_runs import CPURuns
from powerinfer_cli.runtime.hybrid.division import check_plan, runs_of, stream_from, uploaded_bytes
from powerinfer_cli.runtime.hybrid.gpu_runs import GPURuns
from powerinfer_cli.runtime.hybrid.mirrors import Mirrors
from powerinfer_cli.runtime.logits import finish_logits
from powerinfer_cli.runtime.options import EngineOptions

__all__ = ["HybridBackend"]

Step = Callable[[], None]


class HybridBackend:
    """A model divided by a plan."""

    def __init__(self, parts: Parts, placement: Placement) -> None:
        config, plan = parts.config, placement.plan
        self.config, self.plan = config, plan
        check_plan(plan, parts)
        self._stats, self._runs = parts.stats, runs_of(plan)
        self._stats.grow(config.n_layer)
        adapting = adapting_layers(parts, placement)
        self._cpu = CPURuns(parts, plan, [run.layers for run in self._runs if run.side == MAIN_MEMORY], adapting)
        n_tokens = len(self._cpu.many.ids)
        total = uploaded_bytes(parts, plan)
        done = 0
        self._sides: dict[int, DeviceSide] = {}
        pages = overflowing(parts.model.layers, dict(enumerate(plan.layers)), parts.pages.extent)
        streams = placement.stream_from is not None
        make = partial(DeviceSide, parts, n_tokens=n_tokens, streams=streams, adapting=adapting, pages=pages)
        for gpu in plan.gpus:
            device = torch.device(placement.devices[gpu])
            keep_budget(device, plan.budgets[gpu])
            uploader = Uploader(device, total, parts.events, done)
            placed = {i: where for i, where in enumerate(plan.layers) if where.device == gpu}
            with told_when_full(device, plan.budgets[gpu]):
                self._sides[gpu] = make(device, placed, head=plan.output == gpu, uploader=uploader)
            done = uploader.done
        self._model = parts.model
        self._adaptive = Adaptive.of(parts, placement, adapting, self._sides)
        divided = {i: self._sides[plan.layers[i].device] for i, one in enumerate(self._cpu.weights.cold) if one}
        self._cold = ColdSide(self._cpu, divided, parts.model, self._stats, self._adaptive) if divided else None
        self._overflow = CacheOverflow(parts, self._sides, self._cpu)
        borders = self._overflow.borders
        self._mirrors = Mirrors(parts.model.layers, plan, parts.pages, self._cpu.cache, self._sides, borders)
        self._stats.kv_gpus = sum(side.cache_bytes() for side in self._sides.values())
        self._stats.kv_overflow = self._overflow.n_bytes
        self._gpu = GPURuns(parts, self._sides, self._cold, self._overflow, stream_from(placement, parts))
        if config.causal:
            self._gpu.record(self._runs, plan)
        self._begin(1, BatchKind.MANY)
        cold = None if self._cold is None else self._cold.counts
        self._counting = Counting(parts, plan, self._cpu.layers, self._sides, cold)

    @property
    def waits(self) -> int:
        """How often the CPU has waited for a GPU so far."""
        return sum(side.link.waits for side in self._sides.values())

    def forward(self, batch: Batch) -> None:
        """Texts of encoders are batches, however short."""
        self._forward(batch, batch.kind if self.config.causal else BatchKind.MANY)

    def record_routes(self, batch: Batch, watch: WatchRoutes) -> None:
        self._forward(batch, BatchKind.MANY, watch)

    def _forward(self, batch: Batch, kind: BatchKind, watch: WatchRoutes | None = None) -> None:
        """watch: of many tokens."""
        n = len(batch)
        self._begin(n, kind)
        self._counting.begin(batch)
        if self._cold is not None:
            if self._adaptive is not None:
                self._adaptive.begin(self._cold.tiers)
            self._cold.begin(batch)
        buffers = self._cpu.buffers_for(kind)
        self._cpu.begin(batch, buffers)
        self._cpu.embed(kind)
        self._overflow.begin(batch)
        for side in self._sides.values():
            side.take_inputs(side.begin(self._flow(side), batch), self._cpu.inputs_of(buffers, n))
        at = MAIN_MEMORY
        for run in self._runs:
            self._move(at, run.side, n)
            at = run.side
            if at == MAIN_MEMORY:
                if watch is None:
                    self._cpu.run(run.layers, kind)
                else:
                    self._cpu.record_routes(run.layers, n, watch)
                self._mirrors.pass_on(run.layers, batch)
                continue
            self._gpu.run(run, n, watch)
            self._mirrors.pass_on(run.layers, batch)
        self._move(at, self.plan.output, n)
        if self._adaptive is not None:
            self._adaptive.finish(batch)
        self._counting.leave(batch, kind, buffers)

    def record(self, batch: Batch, watch: Watch) -> None:
        """Raises PowerInferError: a layer is divided."""
        if self._cold is not None:
            raise PowerInferError("a model whose layers are divided cannot be profiled: place whole layers (-ngl)")
        n = len(batch)
        self._begin(n, BatchKind.MANY)
        self._cpu.begin(batch, self._cpu.many)
        self._overflow.begin(batch)
        self._cpu.embed(BatchKind.MANY)
        x = torch.from_numpy(self._cpu.x_of(self._cpu.many)[:n])
        for run in self._runs:
            if run.side == MAIN_MEMORY:
                x_here = self._cpu.x_of(self._cpu.many)
                x_here[:n] = x.cpu().numpy()
                self._cpu.record(run.layers, n, watch)
                x = torch.from_numpy(x_here[:n])
            else:
                with self._sides[run.side].link.current():
                    inputs = self._cpu.inputs_of(self._cpu.many, n)
                    x = self._gpu.record_activations(run, x, batch, inputs, watch)
            self._mirrors.pass_on(run.layers, batch)
        if self.plan.output == MAIN_MEMORY:
            self._cpu.x_of(self._cpu.many)[:n] = x.cpu().numpy()
        else:
            there = self._sides[self.plan.output]
            there.take_x(self._flow(there), x)

    def logits_at(self, rows: Sequence[int]) -> Logits:
        if self.plan.output == MAIN_MEMORY:
            self._counting.collect()
            return self._cpu.head_of_one() if self._kind is BatchKind.ONE else self._cpu.head_of(rows)
        side = self._sides[self.plan.output]
        with side.link.current():
            found = side.products_of(self._flow(side), rows)
        self._counting.collect()
        return finish_logits(self._model.head, found.numpy().copy())

    def hidden_at(self, rows: slice) -> Hidden:
        if self.plan.output == MAIN_MEMORY:
            self._counting.collect()
            return self._cpu.hidden_of_one() if self._kind is BatchKind.ONE else self._cpu.hidden_of(rows)
        side = self._sides[self.plan.output]
        with side.link.current():
            found: Hidden = side.hidden_of(self._flow(side), rows).cpu().numpy()
        self._counting.collect()
        return found

    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> bool:
        if not self._cpu.shift(sequence, n_past, n_keep, n_discard):
            return False
        for side in self._sides.values():
            with side.link.current():
                side.shift(sequence, n_past, n_keep, n_discard)
                self._overflow.shift(side.caches, sequence, n_past, n_keep, n_discard)
        self._mirrors.shift(sequence, n_past, n_keep, n_discard)
        return True

    def read_cells(self, held: Held) -> dict[str, npt.NDArray[Any]]:
        found = self._cpu.read_cells(held)
        for side in self._sides.values():
            with side.link.current():
                found |= side.read_cells(held)
        return self._overflow.with_rest(held, found)

    def write_cells(self, held: Held, stored: Stored) -> None:
        """Nothing is written where anything is wrong."""
        shares = [side.share_of(held, stored) for side in self._sides.values()]
        theirs = {name for share in shares for name in share}
        self._cpu.write_cells(held, {name: part for name, part in stored.items() if name not in theirs})
        for side, share in zip(self._sides.values(), shares, strict=True):
            with side.link.current():
                side.write_cells(held, share)
        self._overflow.write(held, {name: part for share in shares for name, part in share.items()})
        self._mirrors.restore(held)

    def read_states(self, sequence: int) -> dict[int, npt.NDArray[np.float32]]:
        found = self._cpu.read_states(sequence)
        for side in self._sides.values():
            with side.link.current():
                found |= side.read_states(sequence)
        return found

    def write_states(self, sequence: int, states: Mapping[int, npt.NDArray[np.float32]]) -> None:
        self._cpu.write_states(sequence, states)
        for side in self._sides.values():
            with side.link.current():
                side.write_states(sequence, states)

    def packed_ends(self) -> Mapping[str, WeightRows]:
        return self._cpu.packed_ends()

    def use_threads(self, options: EngineOptions) -> None:
        """What GPUs do stays recorded: steps look for the cold tier when they need it."""
        self._cpu.use_threads(options)
        if self._cold is not None:
            self._cold.make()
        self._overflow.write_programs()

    def experts(self) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
        return {} if self._cold is None else self._cold.experts()

    def close(self) -> None:
        self._cpu.close()

    def _begin(self, n: int, kind: BatchKind) -> None:
        self._kind, self._n = kind, n
        self._gpu.begin(n, kind)

    def _move(self, source: int, target: int, n: int) -> None:
        """The residual stream, from where it is to where it is needed."""
        if source == target:
            return
        cpu_x = self._cpu.x_of(self._cpu.buffers_for(self._kind))
        if target == MAIN_MEMORY:
            side = self._sides[source]
            cpu_x[:n] = side.give_x(self._flow(side), n).numpy()
            return
        x = torch.from_numpy(cpu_x[:n]) if source == MAIN_MEMORY else self._flow(self._sides[source]).x[:n]
        there = self._sides[target]
        there.take_x(self._flow(there), x)

    def _flow(self, side: DeviceSide) -> DeviceFlow:
        """Where the tokens of the last `forward` are."""
        return self._gpu.flow_of(side, self._n)
