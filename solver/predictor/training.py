"""The predictors of a whole model: layers side by side, resumed after an interruption, written as a directory."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import torch

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.model import Model, ModelConfig
from powerinfer_cli.model.turned import down_bytes
from powerinfer_cli.runtime import LoadEvents
from powerinfer_cli.system.memory import resident_memory
from solver.predictor.buffer import Buffer
from solver.predictor.files import layer_file, publish, read_layer, write_layer
from solver.predictor.improving import Improvement, Offer, improve_layer, most_valuable, offer
from solver.predictor.layer import PredictorOptions, PredictorReport, TrainedPredictor
from solver.predictor.ranks import Costs, RankOptions, ReadingSpeed, train_at_best_rank
from solver.predictor.start import CHUNK
from solver.predictor.teacher import FileLayer, neuron_rows
from solver.state import SolverState, read_state

__all__ = [
    "IMPROVING",
    "MAKING",
    "LayersMade",
    "TrainOptions",
    "layer_costs",
    "layers_at_once",
    "train_layers",
    "working_bytes",
]

STAGE, STEPS = "layers", "steps"
SPARE_BYTES = 1 << 30  # of memory, besides what the model itself takes while it runs: of the whole process
MAKING, IMPROVING = "training predictors", "improving predictors"
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TrainOptions:
    """How predictors are made. time_budget: seconds for all, of which gradient steps get what is left: none begin later
    than `until` (of time.monotonic()), None: than so long after the closed forms. A layer has `predictor.steps`. speed:
    of the machine, by which ranks are chosen; by bytes without.
    """

    predictor: PredictorOptions = field(default_factory=PredictorOptions)
    ranks: RankOptions = field(default_factory=RankOptions)
    time_budget: float = 1800.0
    speed: ReadingSpeed | None = None
    until: float | None = None

    def deadline(self) -> float:
        """Of gradient steps that could begin now."""
        return time.monotonic() + self.time_budget if self.until is None else self.until


@dataclass(frozen=True)
class LayersMade:
    """reports: of all layers. offer: what more time for gradient steps would buy. seconds: that they took."""

    reports: list[PredictorReport]
    offer: Offer = field(default_factory=Offer)
    seconds: float = 0.0


def train_layers(
    model: Model,
    buffer: Buffer,
    work: Path,
    folder: Path,
    options: TrainOptions,
    made_with: Mapping[str, Any],
    events: LoadEvents,
) -> LayersMade:
    """Make a predictor for each layer from what was collected, and write the directory `folder`.

    A layer that is not cheaper with its predictor gets none: its report is that of a dense layer.
    A finished layer's file stays in `work`: another call that is `made_with` the same goes on with the others.
    As many layers as there are torch threads are made side by side, each by one thread, so that the number of threads
    changes nothing. Raises PowerInferError.
    """
    run = _Run(model, buffer, work, options, made_with, events)
    reports = run.closed_forms()
    found, seconds = run.improved(reports)
    dense = [number for number, report in reports.items() if report.is_dense]
    settings = {"sparse_threshold": 0.0, "powerinfer": dict(made_with)}
    publish(work, folder, model.config.n_layer, settings, dense)
    for number, report in sorted(reports.items()):
        events.note(_line(number, report))
    return LayersMade([reports[number] for number in sorted(reports)], found, seconds)


@dataclass(frozen=True)
class _Run:
    model: Model
    buffer: Buffer
    work: Path
    options: TrainOptions
    made_with: Mapping[str, Any]
    events: LoadEvents
    stop: Event = field(default_factory=Event)

    def closed_forms(self) -> dict[int, PredictorReport]:
        """Each layer's report; files are in `work`."""
        n_layer = self.model.config.n_layer
        state = read_state(self.work)
        reports = _finished(state, self.made_with, self.work)
        if reports:
            self.events.note(f"training: going on, {len(reports)} of {n_layer} layers are done")
        left = [number for number in range(n_layer) if number not in reports]
        for number, trained in self._side_by_side(self._closed_form, left):
            if self._pays(number, trained.report):
                write_layer(self.work, number, trained)
                reports[number] = trained.report
            else:
                reports[number] = PredictorReport.of_dense(trained.report.true_density)
            state = self._record(state, reports)
            self.events.progress(MAKING, len(reports), n_layer)
        return reports

    def improved(self, reports: dict[int, PredictorReport]) -> tuple[Offer, float]:
        """Gradient steps where they pay; reports and files of these layers are replaced."""
        begin, deadline, steps = time.monotonic(), self.options.deadline(), self.options.predictor.steps
        ordered = [reports[number] for number in sorted(reports)]
        candidates = most_valuable(ordered, self.buffer.n_ff, list(map(self._costs, reports))) if steps else []
        state = read_state(self.work)
        done: list[int] = list(state.found(STEPS).get("layers", ())) if state.fits(STEPS, self.made_with) else []
        left = {one.number: one for one in candidates if one.number not in done}

        def improve(number: int) -> Improvement:
            closed = TrainedPredictor(*read_layer(self.work, number), reports[number])
            samples, options = self.buffer.layer(number), self._predictor(number)
            return improve_layer(left[number], samples, closed, self._costs(number), options, deadline, self.stop)

        found = []
        for number, one in self._side_by_side(improve, list(left)):
            found.append(one)
            if one.predictor is not None:
                write_layer(self.work, number, one.predictor)
                reports[number] = one.predictor.report
                state = self._record(state, reports)
            state = state.with_stage(STEPS, self.made_with, {"layers": [*done, *list(left)[: len(found)]]})
            self.events.progress(IMPROVING, len(found), len(left))
        return offer(found, self._workers()), time.monotonic() - begin

    def _closed_form(self, number: int) -> TrainedPredictor:
        weights, samples = self.model.layers[number], self.buffer.layer(number)
        exact = weights.ffn.neurons.activation.has_exact_zeros
        rows = neuron_rows(weights, samples[: 1 << 13].unit_inputs()) if exact else None
        return train_at_best_rank(samples, rows, self._costs(number), self._predictor(number), self.options.ranks)

    def _predictor(self, number: int) -> PredictorOptions:
        return replace(self.options.predictor, seed=self.options.predictor.seed + number)

    def _costs(self, number: int) -> Costs:
        return layer_costs(self.model.layers[number], self.model.config).at(self.options.speed)

    def _pays(self, number: int, report: PredictorReport) -> bool:
        costs, asked_for = self._costs(number), self.options.ranks.rank is not None
        return asked_for or costs.of_report(report, self.buffer.n_ff[number]) < costs.dense

    def _record(self, state: SolverState, reports: Mapping[int, PredictorReport]) -> SolverState:
        return state.with_stage(STAGE, self.made_with, {str(number): asdict(one) for number, one in reports.items()})

    def _workers(self) -> int:
        """Layers at a time: one on a GPU, else what threads and memory allow."""
        if self.options.predictor.device != "cpu":
            return 1
        most = max(_working_bytes(self.buffer, number) for number in range(self.buffer.n_layer))
        return layers_at_once(self.model.nbytes, most)

    def _side_by_side(self, work: Callable[[int], Answer], numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """What each number comes to, as they are done. Each thread computes alone, so that sums are the same."""
        threads, workers = torch.get_num_threads(), self._workers()
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        futures = {pool.submit(work, number): number for number in numbers}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            self.stop.set()
            pool.shutdown(cancel_futures=True)
            self.stop.clear()
            torch.set_num_threads(threads)


def _working_bytes(buffer: Buffer, number: int) -> int:
    paths = buffer.inputs(number), buffer.active(number)
    collected = sum(path.stat().st_size for path in paths if path.is_file())
    return working_bytes(buffer.n_embd, buffer.n_ff[number], collected)


def working_bytes(n_embd: int, n_ff: int, collected: int) -> int:
    """About what a layer takes: its samples twice, its weights, and parts of the text in 32 bits."""
    return 2 * collected + 4 * (4 * n_embd * n_ff + CHUNK * (3 * n_embd + 5 * n_ff))


def layers_at_once(model_bytes: int, most: int) -> int:
    """How many layers are made side by side, of which each takes `most` bytes: what threads and memory allow."""
    room = SPARE_BYTES + model_bytes - (resident_memory() or 0)
    return max(1, min(torch.get_num_threads(), room // max(1, most)))


def _finished(state: SolverState, made_with: Mapping[str, Any], work: Path) -> dict[int, PredictorReport]:
    """Reports of the layers that an interrupted call has finished."""
    if not state.fits(STAGE, made_with):
        return {}
    try:
        reports = {int(number): PredictorReport(**report) for number, report in state.found(STAGE).items()}
    except (ValueError, TypeError):
        return {}
    return {n: report for n, report in reports.items() if report.is_dense or layer_file(work, n).is_file()}


def layer_costs(weights: FileLayer, config: ModelConfig) -> Costs:
    """Bytes of a neuron's rows, that of the down matrix as it is turned, and of a hidden neuron of the predictor, which
    is stored in 8 bits.
    """
    neurons = weights.ffn.neurons
    dense = sum(tensor.nbytes for tensor in neurons.matrices)
    first, down = neurons.up if neurons.gate is None else neurons.gate, neurons.down.weight
    turned = 0.0 if neurons.transposed else neurons.n_ff * down_bytes(down.type, config.n_embd) - down.nbytes
    rows = dense + turned
    spared = rows - first.weight.nbytes if neurons.activation.has_exact_zeros else 0
    block_size, block_bytes = BLOCK[GGMLType.Q8_0]
    hidden = (config.n_embd + neurons.n_ff) * block_bytes / block_size
    return Costs(rows / neurons.n_ff, hidden, spared / neurons.n_ff, dense)


def _line(number: int, report: PredictorReport) -> str:
    if report.is_dense:
        return f"layer {number}: dense, as no predictor pays ({report.true_density:.1%} active)"
    return (
        f"layer {number}: rank {report.rank}, recall {report.recall:.1%}, "
        f"predicted {report.predicted_density:.1%} for {report.true_density:.1%} active"
    )
