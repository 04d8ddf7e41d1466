"""The layers that a plan puts on GPUs, run by run: what is done there, and what the CPU does meanwhile.

A few tokens: a GPU's work between two waits is recorded once for each count of them, and replayed. In a layer with cold
neurons the GPU sends the FFN's input and the mask of the cold neurons, or the chosen experts, goes on with the hot
ones, and adds what comes back. The CPU waits for what is sent only: once a layer, and never for one that is wholly
there. More tokens go the same way, unrecorded, and so do those for which cold neurons pass through the GPU: from where
in main memory they come, Python says.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime.backend import Parts, Watch, WatchRoutes
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Recorder, Replay
from powerinfer_cli.runtime.device.memory import told_when_full
from powerinfer_cli.runtime.device.rooms import NOTHING
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.hybrid.cache_overflow import Asked, CacheOverflow, SpilledAttention
from powerinfer_cli.runtime.hybrid.cold_side import ColdSide
from powerinfer_cli.runtime.hybrid.division import Run

__all__ = ["GPURuns"]

Step: TypeAlias = Callable[[], object]
Inputs: TypeAlias = npt.NDArray[np.float32] | None


class GPURuns:
    """`overflow`: of the caches of layers that are here, what main memory has."""

    def __init__(
        self,
        parts: Parts,
        sides: Mapping[int, DeviceSide],
        cold: ColdSide | None,
        overflow: CacheOverflow,
        stream_from: float,
    ) -> None:
        """sides: by GPU. stream_from: tokens from which on cold neurons pass through a GPU."""
        self._sides, self._cold, self._overflow = sides, cold, overflow
        self._layers, self._stats = parts.model.layers, parts.stats
        self._of = {index: side for side in sides.values() for index in side.layers}
        self._stream_from = math.inf if cold is None else stream_from
        self._kind, self._recorded = BatchKind.MANY, False
        self._steps: dict[tuple[Run, int, bool], list[Step]] = {}

    def begin(self, n: int, kind: BatchKind) -> None:
        """A pass begins, of n tokens."""
        self._kind = kind
        self._recorded = kind is not BatchKind.MANY and n < self._stream_from

    def flow_of(self, side: DeviceSide, n: int) -> DeviceFlow:
        """Where a pass's n tokens are."""
        return side.few if self._recorded and n <= side.n_few else side.many

    def record(self, runs: Sequence[Run], plan: Plan) -> None:
        """Graphs of single tokens, before anything that the work changes is of use."""
        self.begin(1, BatchKind.ONE)
        for gpu, side in self._sides.items():
            if side.device.type != "cuda":
                continue
            with told_when_full(side.device, plan.budgets[gpu]):
                for run in (run for run in runs if run.side == gpu):
                    for spilled in (False, True) if self._overflow.here else (False,):
                        for step in self._steps_of(run, 1, spilled=spilled):
                            if isinstance(step, Replay):
                                step()
            side.collect()  # it was counted

    def run(self, run: Run, n: int, watch: WatchRoutes | None) -> None:
        """Layers on one GPU; watch: of many tokens."""
        side, spilled = self._sides[run.side], self._overflow.seen
        with side.link.current():
            if self.flow_of(side, n) is side.few:
                steps = self._steps_of(run, n, spilled=spilled)
            else:
                steps = self._written(_Steps(None), run, side.many, n, spilled, watch)
            for step in steps:
                step()

    def record_activations(self, run: Run, x: Tensor, batch: Batch, inputs: Inputs, watch: Watch) -> Tensor:
        """x [T, n_embd] through a run of layers that are wholly on a GPU; x as they leave it."""
        side, n = self._sides[run.side], len(x)
        flow = side.begin(side.many, batch)
        side.take_inputs(flow, inputs)
        side.take_x(flow, x)
        adds = NOTHING
        for index in run.layers:
            layer = side.layers[index]
            steps = _Steps(None)
            self._attend(steps, flow, index, (layer, side.caches[index], side.tables, adds, n), self._overflow.seen)
            for step in steps.all():
                step()
            flow.enter_ffn(layer, n)
            values = flow.ffn.every_neuron(layer, n) if layer.has_ffn else flow.x[:n, :0]
            seen = values.cpu()
            watch(index, flow.x[:n].cpu().numpy(), seen.numpy())
            if layer.has_ffn:
                flow.ffn.hot_of(layer, values.copy_(seen), n)
            flow.add_inputs(layer, n)
            adds = flow.adds(layer)
        flow.settle(adds, n)
        return flow.x[:n]

    def _steps_of(self, run: Run, n: int, *, spilled: bool) -> list[Step]:
        """Of a few tokens. spilled: where they see pages of the cache that are in main memory."""
        key = run, n, spilled
        if key not in self._steps:
            side = self._sides[run.side]
            self._steps[key] = self._written(_Steps(side.recorder), run, side.few, n, spilled)
        return self._steps[key]

    def _written(
        self, steps: "_Steps", run: Run, flow: DeviceFlow, n: int, spilled: bool, watch: WatchRoutes | None = None
    ) -> list[Step]:
        side, adds = self._sides[run.side], NOTHING
        for index in run.layers:
            layer = side.layers[index]
            self._attend(steps, flow, index, (layer, side.caches[index], side.tables, adds, n), spilled)
            steps.there(partial(flow.predict, layer, n))
            if watch is not None:
                steps.here(partial(self._show_routes, flow, index, n, watch))
            self._ffn(steps, flow, index, n)
            steps.there(partial(flow.add_inputs, layer, n))
            adds = flow.adds(layer)
        steps.there(partial(flow.settle, adds, n))
        return steps.all()

    def _attend(self, steps: "_Steps", flow: DeviceFlow, index: int, asked: Asked, spilled: bool) -> None:
        """Attention of a layer, on both sides where it sees pages of the cache that are in main memory."""
        side = self._of[index]
        if not (spilled and index in side.here):
            steps.there(partial(flow.attend, *asked))
            return
        compute = partial(self._meanwhile, side, partial(self._run_overflow, index, asked[-1]))
        ask, mark, here, there, join = SpilledAttention(side, flow, index, self._overflow, compute).steps(asked)
        steps.there(ask)
        steps.here(mark)
        steps.there(here)
        steps.here(there)
        steps.there(join)

    def _ffn(self, steps: "_Steps", flow: DeviceFlow, index: int, n: int) -> None:
        side = self._of[index]
        layer = side.layers[index]
        if not layer.n_cold:
            steps.there(partial(flow.ffn.run, layer, n))
            return
        if n >= self._stream_from:
            steps.here(partial(self._stream, flow, index, n))
            return
        steps.there(partial(self._cold_side.send, flow, index, n))
        steps.here(side.link.mark)
        if layer.adds_hot:
            steps.there(partial(flow.ffn.run, layer, n))
        steps.here(partial(self._meanwhile, side, partial(self._run_cold, index, n)))
        steps.there(partial(self._cold_side.receive, flow, index, n))

    def _show_routes(self, flow: DeviceFlow, index: int, n: int, watch: WatchRoutes) -> None:
        routed = routing_of(self._of[index].layers[index].block.ffn.selection)
        if routed is not None:
            watch(index, flow.ffn.chosen(routed).experts[:n].cpu().numpy())

    def _stream(self, flow: DeviceFlow, index: int, n: int) -> None:
        """The layer's cold neurons, or those experts of them that are chosen, pass through the GPU."""
        side, ffn, cold = self._of[index], self._layers[index].ffn, self._cold_side.numbers(index)
        layer = side.layers[index]
        told = self._cold_side.send_choice(flow, index, n)
        if told:
            side.link.mark()
        if layer.adds_hot:
            flow.ffn.run(layer, n)
        if told:
            side.link.wait()
            self._cold_side.note(index, n)
        assert side.stream is not None  # it was made for batches of this size
        if layer.slots is None:
            side.stream.run(ffn.neurons, cold, layer, flow, n)
        else:
            side.stream.run_experts(ffn, self._cold_side.chosen_of(index, n), cold, layer, flow, n)

    def _run_cold(self, index: int, n: int) -> None:
        self._cold_side.run(index, n, self._kind)

    def _run_overflow(self, index: int, n: int) -> None:
        self._overflow.run(index, n, self._kind)

    def _meanwhile(self, side: DeviceSide, work: Step) -> None:
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


class _Steps:
    """In their order. Where there is a recorder, those of the device that follow each other are one graph."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._found: list[Step] = []
        self._work: list[Step] = []

    def there(self, step: Step) -> None:
        """Of the device alone: it can be recorded."""
        self._work.append(step)

    def here(self, step: Step) -> None:
        """For which Python, or the CPU, is asked each time."""
        self.all().append(step)

    def all(self) -> list[Step]:
        if self._recorder is None:
            self._found += self._work
        elif self._work:
            self._found.append(Replay(self._recorder, self._work))
        self._work = []
        return self._found
