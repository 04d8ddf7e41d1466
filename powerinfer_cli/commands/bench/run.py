"""Running the tests of `powerinfer bench` on an engine."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.commands.bench.bandwidth import measure_bandwidth
from powerinfer_cli.commands.bench.plan import Setup, Workload
from powerinfer_cli.commands.bench.result import ModelFacts, Result, Where
from powerinfer_cli.commands.shared.interrupts import Interrupt
from powerinfer_cli.drafting import DraftingEngine, DraftOptions
from powerinfer_cli.kernels.jit import RUNG
from powerinfer_cli.opening import PlacementWishes, open_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.traffic import Traffic, count_traffic

__all__ = ["Bench", "open_bench", "options_for"]

NO_DRAFTS = DraftOptions()
Say = Callable[[str], None]


@dataclass
class Bench:
    """A loaded model. `interrupt` is looked at between tokens."""

    setup: Setup
    how: Mapping[str, Any]
    facts: ModelFacts
    traffic: Traffic
    engine: Engine
    interrupt: Interrupt
    where: Where

    def switch(self, setup: Setup) -> bool:
        """Take another number of threads. False: the setup differs in more, and its model must be loaded."""
        if replace(setup, n_threads=self.setup.n_threads) != self.setup:
            return False
        self.setup = setup
        self.engine.use_threads(setup.n_threads)
        return True

    def run(self, test: Workload, repetitions: int, *, warmup: bool, progress: Say) -> Result:
        """Time a test. Raises Interrupted."""
        test_time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ids = self._ids(test)
        bandwidth = self._bandwidth() if self._counts_bytes(test) else None
        if warmup:
            progress("warm-up")
            self.engine.reset()
            self._evaluate(ids[test.n_depth :], test.n_prompt, min(test.n_gen, 1))
        self.engine.reset()
        before, kept = ids[: test.n_depth], None
        if before:
            progress("depth")
            self._prefill(before)
            kept = None if self.engine.keeps_all else self.engine.save(0)
        self.engine.stats.reset()
        self.engine.begin_drafts(0)
        samples = []
        for repetition in range(repetitions):
            progress(f"run {repetition + 1}/{repetitions}")
            if self.engine.truncate(len(before)) < len(before) and kept is not None:
                self.engine.restore(0, before, kept)
            start = time.perf_counter_ns()
            self._evaluate(ids[test.n_depth :], test.n_prompt, test.n_gen)
            samples.append(time.perf_counter_ns() - start)
        stats = self.engine.stats
        active, predicted = stats.mean_active, stats.mean_predicted
        n_bytes = None
        if self._counts_bytes(test):
            positions = test.n_depth + (test.n_gen + 1) / 2  # token i attends to those before it, and to itself
            n_bytes = self.traffic.per_token(positions, *stats.shares(self.engine.config.n_layer))
        return Result(
            self.setup,
            self.how,
            self.facts,
            self.where,
            test,
            test_time,
            samples,
            n_bytes,
            bandwidth,
            active=active,
            predicted=predicted,
            hit_rate=stats.hit_rate,
            uploads=stats.uploads,
            moved=stats.moved,
            drafted=self.engine.drafted(),
        )

    def _bandwidth(self) -> float:
        return measure_bandwidth(self.setup.n_threads, cores=self.engine.options.cores)

    def _counts_bytes(self, test: Workload) -> bool:
        """A prompt's weights are read once for many tokens: its limit is arithmetic, not memory. With a GPU, there are
        two memories; with drafts, a step is for several tokens."""
        return test.n_prompt == 0 and not self.where.n_gpu_layers and not isinstance(self.engine, DraftingEngine)

    def _ids(self, test: Workload) -> list[int]:
        """The same random tokens in every repetition and every run: what fires depends on them."""
        rng = np.random.default_rng(0)
        return [int(i) for i in rng.integers(0, self.engine.config.n_vocab, test.n_ctx)]

    def _evaluate(self, ids: Sequence[int], n_prompt: int, n_gen: int) -> None:
        following: npt.NDArray[np.float32] | None = None
        if n_prompt:
            following = self._prefill(ids[:n_prompt])
        drafting = isinstance(self.engine, DraftingEngine)
        for token in ids[n_prompt : n_prompt + n_gen]:
            # What nobody could foresee says nothing of drafts: with them the model goes on as it would itself.
            own = token if following is None or not drafting else int(following.argmax())
            following = self.engine.decode(own)
            self.interrupt.check()

    def _prefill(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return self.engine.prefill(ids, on_batch=lambda done, total: self.interrupt.check())


def options_for(setup: Setup, n_ctx: int) -> EngineOptions:
    """As the engine takes them."""
    return EngineOptions(
        n_ctx=n_ctx,
        n_batch=setup.n_batch,
        n_ubatch=setup.n_ubatch,
        n_threads=setup.n_threads,
        type_k=setup.type_k,
        type_v=setup.type_v,
    )


def how_run(options: EngineOptions, drafts: DraftOptions = NO_DRAFTS) -> dict[str, Any]:
    """What a figure depends on besides the tests: cores and instructions, and where weights are read from.

    cpu_mask is 0x0 where threads may run on any core; with --numa it has the cores of the chosen nodes.
    """
    cores: frozenset[int] = frozenset().union(*options.cores)
    strict = bool(options.cores) and all(len(group) == 1 for group in options.cores)
    in_file = not options.repack and not options.reference
    return {
        "cpu_mask": hex(sum(1 << core for core in cores)),
        "cpu_strict": strict,
        "use_mmap": in_file,
        "rung": "" if options.reference else str(RUNG),
        "repack": not in_file and not options.reference,
        "mlock": options.mlock,
        "reference": options.reference,
        "spec_type": str(drafts.kind),
    }


def open_bench(
    setup: Setup,
    options: EngineOptions,
    interrupt: Interrupt,
    events: LoadEvents,
    predictor_path: Path | None = None,
    placement: PlacementWishes | None = None,
    drafts: DraftOptions | None = None,
) -> Bench:
    """Load a model as `powerinfer main` does. Raises PowerInferError."""
    opened = open_model(
        setup.model, options, placement, predictor_path=predictor_path, text=False, events=events, drafts=drafts
    )
    for line in opened.gpus:
        events.note(f"gpu: {line}")
    model, statistics = opened.model, opened.beside.statistics
    activities = [statistics.activity(layer) if statistics else None for layer in range(len(model.layers))]
    asked = [
        layer.ffn.neurons.n_ff if activity is None else len(activity.undecided)
        for layer, activity in zip(model.layers, activities, strict=True)
    ]
    traffic = count_traffic(model, setup.type_k, setup.type_v, asked)
    facts = ModelFacts.of(opened.gguf, model.config)
    how = how_run(options, drafts or NO_DRAFTS)
    return Bench(setup, how, facts, traffic, opened.engine, interrupt, _where(opened.placement))


def _where(placement: Placement | None) -> Where:
    if placement is None:
        return Where()
    plan, devices = placement.plan, placement.devices
    count = sum(layer.device != MAIN_MEMORY for layer in plan.layers) + (plan.output != MAIN_MEMORY)
    if devices[0] == "cpu":
        return Where("CPU, GPU rehearsed", "", count)
    if devices[0] == "mps":
        return Where("MPS", "Apple GPU", count)
    import torch

    return Where("CUDA", ", ".join(torch.cuda.get_device_name(devices[gpu]) for gpu in plan.gpus), count)
