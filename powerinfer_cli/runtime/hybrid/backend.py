"""The hybrid backend: layers on GPUs, with their hot neurons or experts; cold ones, and what else is left, on the CPU.

One token: a GPU's work between two waits is recorded once and replayed. In a layer with cold neurons the GPU sends the
FFN's input and the mask of the cold neurons, or the chosen experts, goes on with the hot ones, and adds what comes
back. The CPU waits for what is sent only: once a layer, and never for a layer that is wholly on one side.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime.backend import Hidden, Logits, Parts, Watch, WatchRoutes
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.context.cache_size import overflowing
from powerinfer_cli.runtime.context.pages import Held
from powerinfer_cli.runtime.context.saved import Stored
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Recorder, Replay
from powerinfer_cli.runtime.device.memory import keep_budget, told_when_full
from powerinfer_cli.runtime.device.rooms import NOTHING, Addends
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.device.weights import Uploader
from powerinfer_cli.runtime.hybrid.adaptive import Adaptive, adapting_layers
from powerinfer_cli.runtime.hybrid.cache_overflow import CacheOverflow, SpilledAttention
from powerinfer_cli.runtime.hybrid.cold_side import ColdSide
from powerinfer_cli.runtime.hybrid.counting import Counting
from powerinfer_cli.runtime.hybrid.cpu_runs import CPURuns
from powerinfer_cli.runtime.hybrid.division import Run, check_plan, runs_of, stream_from, uploaded_bytes
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
        kinds = (False, True) if self._overflow.here else (False,)
        self._steps = {spilled: [self._token_steps(run, spilled=spilled) for run in self._runs] for spilled in kinds}
        self._record()
        self._kind = BatchKind.MANY
        cold = None if self._cold is None else self._cold.counts
        self._counting = Counting(parts, plan, self._cpu.layers, self._sides, cold)
        self._stream_from = stream_from(placement, parts)

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
        self._kind = kind
        self._counting.begin(batch)
        if self._adaptive is not None:
            self._adaptive.begin(self._cold_side.tiers)
        if self._cold is not None:
            self._cold.begin(batch)
        buffers = self._cpu.buffers_for(kind)
        self._cpu.begin(batch, buffers)
        self._cpu.embed(kind)
        self._overflow.begin(batch)
        for side in self._sides.values():
            side.take_inputs(side.begin(self._flow(side), batch), self._cpu.inputs_of(buffers, n))
        at = MAIN_MEMORY
        for number, run in enumerate(self._runs):
            self._move(at, run.side, n)
            at = run.side
            if at == MAIN_MEMORY:
                if watch is None:
                    self._cpu.run(run.layers, kind)
                else:
                    self._cpu.record_routes(run.layers, n, watch)
                self._mirrors.pass_on(run.layers, batch)
                continue
            with self._sides[at].link.current():
                if kind is BatchKind.ONE:
                    for step in self._steps[self._overflow.seen][number]:
                        step()
                else:
                    self._batch(run, n, watch)
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
        self._kind = BatchKind.MANY
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
                    x = self._record_there(run, x, batch, watch)
            self._mirrors.pass_on(run.layers, batch)
        if self.plan.output == MAIN_MEMORY:
            self._cpu.x_of(self._cpu.many)[:n] = x.cpu().numpy()
        else:
            there = self._sides[self.plan.output]
            there.take_x(self._flow(there), x)

    def _record_there(self, run: Run, x: Tensor, batch: Batch, watch: Watch) -> Tensor:
        """x [T, n_embd] through a run of layers that are wholly on a GPU; x as they leave it."""
        side, n = self._sides[run.side], len(x)
        flow = side.begin(side.many, batch)
        side.take_inputs(flow, self._cpu.inputs_of(self._cpu.many, n))
        side.take_x(flow, x)
        adds = NOTHING
        for index in run.layers:
            layer = side.layers[index]
            self._attend(side, flow, index, adds, n)
            flow.enter_ffn(layer, n)
            if layer.has_ffn:
                values = flow.ffn.every_neuron(layer, n)
                seen = values.cpu()
                watch(index, flow.x[:n].cpu().numpy(), seen.numpy())
                flow.ffn.hot_of(layer, values.copy_(seen), n)
            else:
                watch(index, flow.x[:n].cpu().numpy(), np.empty((n, 0), np.float32))
            flow.add_inputs(layer, n)
            adds = flow.adds(layer)
        flow.settle(adds, n)
        return flow.x[:n]

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

    def _record(self) -> None:
        """Graphs, before anything that recording changes is of use."""
        for gpu, side in self._sides.items():
            recorder = Recorder(side.device)
            with told_when_full(side.device, self.plan.budgets[gpu]):
                pairs = [pair for steps in self._steps.values() for pair in zip(self._runs, steps, strict=True)]
                for step in (step for run, steps in pairs if run.side == gpu for step in steps):
                    if isinstance(step, Replay):
                        recorder.record(step)
            side.collect()  # recording has counted

    def _token_steps(self, run: Run, *, spilled: bool) -> list[Step]:
        """What one token needs in a run of layers: recordings, and what the CPU does between them. spilled: where it
        sees pages of the cache that are in main memory.
        """
        if run.side == MAIN_MEMORY or not self.config.causal:
            return []
        side = self._sides[run.side]
        flow = side.one
        steps: list[Step] = []
        work: list[Step] = []
        adds = NOTHING
        for index in run.layers:
            layer = side.layers[index]
            asked = layer, side.caches[index], side.tables, adds, 1
            if spilled and index in side.here:
                ask, mark, here, there, join = self._spilling(side, flow, index, 1).steps(asked)
                steps += [Replay(side.device, [*work, ask]), mark, Replay(side.device, [here]), there]
                work = [join]
            else:
                work.append(partial(flow.attend, *asked))
            work.append(partial(flow.predict, layer, 1))
            if layer.n_cold:
                work.append(partial(self._cold_side.send, flow, index, 1))
                steps += [Replay(side.device, work), side.link.mark]
                if layer.adds_hot:
                    steps.append(Replay(side.device, [partial(flow.ffn.run, layer, 1)]))
                steps.append(partial(self._compute_cold, side, index, 1))
                work = [partial(self._cold_side.receive, flow, index, 1)]
            else:
                work.append(partial(flow.ffn.run, layer, 1))
            work.append(partial(flow.add_inputs, layer, 1))
            adds = flow.adds(layer)
        work.append(partial(flow.settle, adds, 1))
        return [*steps, Replay(side.device, work)]

    def _batch(self, run: Run, n: int, watch: WatchRoutes | None = None) -> None:
        side = self._sides[run.side]
        flow = side.many
        adds = NOTHING
        for index in run.layers:
            layer = side.layers[index]
            self._attend(side, flow, index, adds, n)
            flow.predict(layer, n)
            routed = routing_of(layer.block.ffn.selection)
            if watch is not None and routed is not None:
                watch(index, flow.ffn.chosen(routed).experts[:n].cpu().numpy())
            streamed = layer.n_cold > 0 and n >= self._stream_from
            told = streamed and self._cold_side.send_choice(flow, index, n)
            computed = layer.n_cold > 0 and not streamed
            if computed:
                self._cold_side.send(flow, index, n)
            if told or computed:
                side.link.mark()
            if layer.adds_hot:
                flow.ffn.run(layer, n)
            if told:
                side.link.wait()
                self._cold_side.note(index, n)
            if streamed:
                self._stream(side, flow, index, n)
            if computed:
                self._compute_cold(side, index, n)
                self._cold_side.receive(flow, index, n)
            flow.add_inputs(layer, n)
            adds = flow.adds(layer)
        flow.settle(adds, n)

    def _attend(self, side: DeviceSide, flow: DeviceFlow, index: int, adds: Addends, n: int) -> None:
        """Attention of a layer, on both sides where the batch sees pages of the cache that are in main memory."""
        asked = side.layers[index], side.caches[index], side.tables, adds, n
        if self._overflow.seen and index in side.here:
            for step in self._spilling(side, flow, index, n).steps(asked):
                step()
        else:
            flow.attend(*asked)

    def _spilling(self, side: DeviceSide, flow: DeviceFlow, index: int, n: int) -> SpilledAttention:
        def compute() -> None:
            self._meanwhile(side, lambda: self._overflow.run(index, n, self._kind))

        return SpilledAttention(side, flow, index, self._overflow, compute)

    def _stream(self, side: DeviceSide, flow: DeviceFlow, index: int, n: int) -> None:
        """The layer's cold neurons, or those experts of them that are chosen, pass through the GPU."""
        ffn, layer, cold = self._model.layers[index].ffn, side.layers[index], self._cold_side.numbers(index)
        assert side.stream is not None  # it was made for batches of this size
        if layer.slots is None:
            side.stream.run(ffn.neurons, cold, layer, flow, n)
        else:
            side.stream.run_experts(ffn, self._cold_side.chosen_of(index, n), cold, layer, flow, n)

    def _compute_cold(self, side: DeviceSide, index: int, n: int) -> None:
        self._meanwhile(side, lambda: self._cold_side.run(index, n, self._kind))

    def _meanwhile(self, side: DeviceSide, work: Callable[[], Any]) -> None:
        """What the CPU does with what was sent, while the device goes on."""
        begin = perf_counter()
        side.link.wait()
        heard = perf_counter()
        work()
        seconds = self._stats.seconds
        seconds.waiting += heard - begin
        seconds.cold += perf_counter() - heard

    @property
    def _cold_side(self) -> ColdSide:
        assert self._cold is not None  # there is one where layers are divided
        return self._cold

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
        return side.one if self._kind is BatchKind.ONE else side.many
