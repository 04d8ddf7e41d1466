"""The stages before the plan, as `powerinfer solve` runs them: alone or one after the other, each only where needed.

What a stage has made is recorded in `solver.json` beside it, with what it was made of; a later run keeps what still
fits, and makes anew what does not.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import check_writable
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model, load_model, load_predictors
from powerinfer_cli.placement import (
    ActivationStatistics,
    Placement,
    find_firing,
    find_statistics,
    kin_numbers,
    load_statistics,
    model_fingerprint,
)
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.system.memory import return_memory
from solver.collecting import Collection
from solver.owner import KIN, Owner, owner_of
from solver.predictor import (
    LayersMade,
    PredictorReport,
    TrainOptions,
    layer_costs,
    train_layers,
)
from solver.profile import CHUNK, ActiveRule, Chunks, Text, chunks_of, held_out, made_of, profile_text
from solver.spoilt import spoilt_weights
from solver.state import SolverState, read_state

__all__ = [
    "PREDICTOR",
    "Place",
    "SolverModel",
    "clear",
    "fitting_statistics",
    "own_statistics",
    "predictor_stage",
    "profile_stage",
    "statistics_folder",
    "statistics_in",
    "text_chunks",
    "told_of",
]

ACTIVATION, PREDICTOR = "activation", "predictor"


@dataclass(frozen=True)
class Place:
    """`folder` gets the outputs: `activation/`, `activation.npz`, `firing.npz`, `predictor/`, `solver.json`."""

    folder: Path

    @property
    def work(self) -> Path:
        """What is not finished."""
        return self.folder / ".solver-work"

    @property
    def statistics(self) -> Path:
        return self.folder / ACTIVATION

    @property
    def predictor(self) -> Path:
        return self.folder / PREDICTOR


class SolverModel:
    """A model's file, and its engine once a stage needs it, with every neuron active.

    placement: of whole layers on GPUs. results: where what the engine helps to make will be written. model: the file's,
    where somebody has read it.
    """

    def __init__(
        self,
        gguf: GGUFFile,
        options: EngineOptions,
        events: LoadEvents,
        placement: Placement | None = None,
        results: Path | None = None,
        model: Model | None = None,
    ) -> None:
        self.gguf, self.events, self.placement, self.results = gguf, events, placement, results
        self.model = model or load_model(gguf)
        self.config = self.model.config
        self.n_ctx = min(CHUNK, self.config.n_ctx_train)
        self.options = options

    @cached_property
    def fingerprint(self) -> str:
        return model_fingerprint(self.gguf)

    @cached_property
    def weights(self) -> int:
        """That a token meets: all of the file, but of experts those that are chosen."""
        spared = 0
        for layer, n_experts in self.model.n_experts.items():
            whole = sum(matrix.n_elements for matrix in self.model.layers[layer].ffn.neurons.matrices)
            spared += whole - whole * self.model.n_chosen[layer] // n_experts
        return sum(tensor.n_elements for tensor in self.gguf.tensors.values()) - spared

    def engine_options(self, **changes: Any) -> EngineOptions:
        return replace(self.options, n_ctx=self.n_ctx, **changes)

    @cached_property
    def _spoilt(self) -> str | None:
        """Vectors are looked at as they are read."""
        return spoilt_weights(self.gguf)

    def check_weights(self) -> None:
        """Of what is not seen in activations: ReLU and softmax swallow some, and nobody looks behind the last of them.

        Reads all of the file once. Raises PowerInferError: some weights are no numbers.
        """
        if self._spoilt is not None:
            raise PowerInferError(self._spoilt)

    def open_engine(self) -> Engine:
        return self._engine

    @cached_property
    def _engine(self) -> Engine:
        if self.results is not None:  # the long work begins here
            check_writable(self.results, "give -o DIR for what is made")
        return Engine(self.model, self.engine_options(all_active=True), None, self.events, self.placement)

    def forget_engine(self) -> None:
        """Give its memory back."""
        engine = self.__dict__.pop("_engine", None)
        if engine is not None:
            engine.close()
            del engine
            return_memory()


def text_chunks(model: SolverModel, ids: list[int], bos: int | None) -> Text:
    """A text's tokens in chunks that the model's context holds. Raises PowerInferError: less than one chunk."""
    return chunks_of(ids, model.n_ctx, bos)


def profile_stage(
    model: SolverModel, chunks: Chunks, place: Place, rule: ActiveRule, *, force: bool = False, trains: bool = False
) -> ActivationStatistics:
    """The model's activation statistics: those that are there, or came with the model, if they fit; else made.

    force: statistics of which nobody knows what text they are of do not do. trains: predictors come next, for which
    what they are made from is collected by the way, unless some are there. Raises PowerInferError.
    """
    events, config = model.events, model.config
    made_with = {"model": model.fingerprint, "text": made_of(chunks), "active": rule.name}
    kept = _kept_statistics(model, place, made_with, force=force)
    if kept is not None:
        return kept
    state = read_state(place.folder)
    beside = None
    if trains and not place.predictor.is_dir():
        beside = partial(_collection(model, held_out(chunks)[0], place, rule).beside, chunks)
    profile = profile_text(config, model.open_engine, chunks, place.folder, place.work, rule, made_with, events, beside)
    model.check_weights()
    found = {"tokens": profile.tokens, "density": profile.density(), KIN: kin_numbers(model.gguf)}
    state.with_stage(ACTIVATION, made_with, found)
    clear(place.work)
    return statistics_in(place.statistics, config.n_ff)


def _kept_statistics(
    model: SolverModel, place: Place, made_with: Mapping[str, Any], *, force: bool
) -> ActivationStatistics | None:
    """Statistics that need not be made, if there are any; a note says which, or why not."""
    found = fitting_statistics(model, place, made_with, force=force)
    if found is None:
        return None
    folder, owner = found
    try:
        statistics = statistics_in(folder, model.config.n_ff)
    except PowerInferError as error:
        model.events.note(f"made anew: {error}")
        return None
    if owner is not Owner.UNKNOWN and find_firing(folder.parent) is None:
        model.events.note(f"{folder}: made anew (counts without a trace of what fired)")
        return None
    model.events.note(told_of(folder, statistics, owner))
    return statistics


def fitting_statistics(
    model: SolverModel, place: Place, made_with: Mapping[str, Any] | None, *, force: bool
) -> tuple[Path, Owner] | None:
    """The folder of statistics that need not be made, and whose they are, by what is recorded; a note says why not.

    made_with: None where any text will do. force: statistics of which nobody knows what text they are of do not do.
    """
    folder = statistics_folder(model.gguf, place)
    if folder is None:
        return None
    state = read_state(folder.parent)
    owner = owner_of(state, ACTIVATION, model.gguf)
    if owner is Owner.OTHER and folder != place.statistics:
        return None
    stale = None if made_with is None else state.stale(ACTIVATION, made_with)
    if owner is Owner.OTHER:
        stale = "model"
    elif owner is Owner.KIN and stale == "model":
        stale = None
    if stale or (force and owner is Owner.UNKNOWN):
        why = f"another {stale}" if stale else "of which text they are is not known"
        model.events.note(f"{folder}: made anew ({why})")
        return None
    return folder, owner


def own_statistics(model: SolverModel, place: Place) -> tuple[Path, Owner] | None:
    """The folder of statistics of which nothing says that they are another model's, and whose they are."""
    folder = statistics_folder(model.gguf, place)
    if folder is None:
        return None
    owner = owner_of(read_state(folder.parent), ACTIVATION, model.gguf)
    if owner is Owner.OTHER:
        model.events.note(f"{folder}: the activation statistics of another model")
        return None
    return folder, owner


def statistics_folder(gguf: GGUFFile, place: Place) -> Path | None:
    """Of statistics that were made, or came with the model."""
    return place.statistics if place.statistics.is_dir() else find_statistics(gguf.path)


def statistics_in(folder: Path, n_ff: Sequence[int]) -> ActivationStatistics:
    """As `load_statistics`; the number of tokens may be known from the record beside the folder alone."""
    statistics = load_statistics(folder, n_ff)
    if statistics.tokens is None:
        tokens = read_state(folder.parent).found(ACTIVATION).get("tokens")
        if isinstance(tokens, int) and tokens >= max(counts.max(initial=1) for counts in statistics.counts):
            return replace(statistics, tokens=tokens)
    return statistics


def told_of(folder: Path, statistics: ActivationStatistics, owner: Owner) -> str:
    """For people: which statistics are kept, of how many tokens, and whose they are."""
    tokens = f"{statistics.tokens:,} tokens" if statistics.tokens else "number of tokens unknown"
    whose = "; of another quantisation of this model" if owner is Owner.KIN else ""
    return f"{folder}: activation statistics kept ({tokens}{whose})"


def predictor_stage(
    model: SolverModel,
    chunks: Chunks,
    place: Place,
    rule: ActiveRule,
    options: TrainOptions,
) -> list[PredictorReport]:
    """Train the model's predictors on those chunks that are not held out, unless those that are there fit.

    They are in `place.predictor`. Raises PowerInferError.
    """
    events, train = model.events, held_out(chunks)[0]
    made_with: dict[str, Any] = {
        "model": model.fingerprint,
        "text": made_of(train),
        "active": rule.name,
        "options": {**asdict(options.predictor), **asdict(options.ranks), "time_budget": options.time_budget},
    }
    made_with["options"].pop("device")
    state = read_state(place.folder)
    kept = _kept_predictors(model, place, state, made_with)
    if kept is not None:
        return kept
    work = place.work / PREDICTOR
    buffer = _collection(model, train, place, rule).whole(model.open_engine)
    model.forget_engine()
    torch.set_num_threads(model.options.threads[1])
    made = train_layers(model.model, buffer, work, place.predictor, options, made_with, events)
    return_memory()  # threads' heaps, as much as a small model
    reports = made.reports
    if options.predictor.steps:
        events.note(_offered(made, options, model))
    state.with_stage(PREDICTOR, made_with, {"reports": [asdict(report) for report in reports]})
    shutil.rmtree(work, ignore_errors=True)
    clear(place.work)
    return reports


def _collection(model: SolverModel, train: Chunks, place: Place, rule: ActiveRule) -> Collection:
    return Collection(model.config, model.fingerprint, train, place.work / PREDICTOR / "buffer", rule, model.events)


def _offered(made: LayersMade, options: TrainOptions, model: SolverModel) -> str:
    """How the time was spent, and what more of it would buy."""
    costs = [layer_costs(layer, model.config).at(options.speed) for layer in model.model.layers]
    offer, whole, budget = made.offer, sum(one.dense for one in costs), options.time_budget
    what = "time" if options.speed else "bytes"
    line = f"gradient steps: {made.seconds:,.0f} s of the {budget / 60:g} min of --time-budget"
    if not offer.all:
        return f"{line}; more time would buy nothing"
    more = f"all {offer.all / whole:.1%}, which takes {offer.seconds / 60:,.0f} min"
    if offer.ten_minutes:
        more = f"ten minutes more would spare {offer.ten_minutes / whole:.1%} of the FFNs' {what}; {more}"
    return f"{line}; {more}"


def _kept_predictors(
    model: SolverModel, place: Place, state: SolverState, made_with: dict[str, Any]
) -> list[PredictorReport] | None:
    if not place.predictor.is_dir():
        return None
    note, config = model.events.note, model.config
    stale = state.stale(PREDICTOR, made_with)
    if stale or PREDICTOR not in state.stages:
        note(f"{place.predictor}: made anew ({f'another {stale}' if stale else 'of what they are is not known'})")
        return None
    try:
        load_predictors(place.predictor, config.n_embd, config.n_ff)
        reports = [PredictorReport(**report) for report in state.found(PREDICTOR)["reports"]]
    except (PowerInferError, KeyError, TypeError) as error:
        note(f"made anew: {error}")
        return None
    note(f"{place.predictor}: predictors kept")
    return reports


def clear(folder: Path) -> None:
    """Remove a folder if nothing is left in it."""
    try:
        folder.rmdir()
    except OSError:
        return
