"""The predictors of a whole model: trained layer by layer, resumed after an interruption, written as a directory."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.model import Model, ModelConfig
from powerinfer_cli.runtime import LoadEvents
from solver.predictor.buffer import Buffer
from solver.predictor.files import layer_file, publish, write_layer
from solver.predictor.layer import PredictorOptions, PredictorReport, TrainedPredictor
from solver.predictor.ranks import Costs, RankOptions, train_at_best_rank
from solver.predictor.samples import Samples
from solver.predictor.teacher import FileLayer, neuron_rows
from solver.state import SolverState, read_state

__all__ = ["TrainOptions", "train_layers"]

STAGE = "layers"


@dataclass(frozen=True)
class TrainOptions:
    """How predictors are made."""

    predictor: PredictorOptions = field(default_factory=PredictorOptions)
    ranks: RankOptions = field(default_factory=RankOptions)


def train_layers(
    model: Model,
    buffer: Buffer,
    work: Path,
    folder: Path,
    options: TrainOptions,
    made_with: Mapping[str, Any],
    events: LoadEvents,
) -> list[PredictorReport]:
    """Make a predictor for each layer from what was collected, and write the directory `folder`.

    A layer that reads no fewer bytes with its predictor gets none: its report is that of a dense layer.
    A finished layer's file stays in `work`: another call that is `made_with` the same goes on with the next.
    Raises PowerInferError.
    """
    config, layers = model.config, model.layers
    state = read_state(work)
    reports = _finished(state, made_with, work)
    if reports:
        events.note(f"training: going on after layer {len(reports) - 1} of {config.n_layer}")
    for number in range(len(reports), config.n_layer):
        trained = _train_layer(layers[number], config, buffer.layer(number), options, number, events)
        costs, n_ff = layer_costs(layers[number], config), config.n_ff[number]
        if costs.of_report(trained.report, n_ff) < costs.dense or options.ranks.rank:
            write_layer(work, number, trained)
            reports.append(trained.report)
        else:
            reports.append(PredictorReport.of_dense(trained.report.true_density))
        state = state.with_stage(STAGE, made_with, {"reports": [asdict(report) for report in reports]})
        events.note(_line(number, reports[-1]))
    settings = {"sparse_threshold": 0.0, "powerinfer": dict(made_with)}
    dense = [number for number, report in enumerate(reports) if report.is_dense]
    publish(work, folder, config.n_layer, settings, dense)
    return reports


def _finished(state: SolverState, made_with: Mapping[str, Any], work: Path) -> list[PredictorReport]:
    """Reports of the layers that an interrupted call has finished."""
    if not state.fits(STAGE, made_with):
        return []
    try:
        reports = [PredictorReport(**report) for report in state.found(STAGE)["reports"]]
    except (KeyError, TypeError):
        return []
    there = (report.is_dense or layer_file(work, layer).is_file() for layer, report in enumerate(reports))
    return reports if all(there) else []


def _train_layer(
    weights: FileLayer,
    config: ModelConfig,
    samples: Samples,
    options: TrainOptions,
    number: int,
    events: LoadEvents,
) -> TrainedPredictor:
    predictor = replace(options.predictor, seed=options.predictor.seed + number)
    exact = weights.ffn.neurons.activation.has_exact_zeros
    rows = neuron_rows(weights, samples[: 1 << 13].unit_inputs()) if exact else None
    steps = max(1, predictor.steps)

    def on_step(done: int, total: int) -> None:
        share = math.floor(steps * done / max(1, total))
        events.progress("training predictors", number * steps + share, config.n_layer * steps)

    return train_at_best_rank(samples, rows, layer_costs(weights, config), predictor, options.ranks, on_step)


def layer_costs(weights: FileLayer, config: ModelConfig) -> Costs:
    """Bytes of a neuron's rows, and of a hidden neuron of the predictor, which is stored in 8 bits."""
    neurons = weights.ffn.neurons
    dense = sum(tensor.nbytes for tensor in neurons.matrices)
    first = neurons.up if neurons.gate is None else neurons.gate
    spared = dense - first.weight.nbytes if neurons.activation.has_exact_zeros else 0
    block_size, block_bytes = BLOCK[GGMLType.Q8_0]
    hidden = (config.n_embd + neurons.n_ff) * block_bytes / block_size
    return Costs(dense / neurons.n_ff, hidden, spared / neurons.n_ff, dense)


def _line(number: int, report: PredictorReport) -> str:
    if report.is_dense:
        return f"layer {number}: dense, as no predictor reads less ({report.true_density:.1%} active)"
    return (
        f"layer {number}: rank {report.rank}, recall {report.recall:.1%}, "
        f"predicted {report.predicted_density:.1%} for {report.true_density:.1%} active"
    )
