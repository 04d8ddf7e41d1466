"""The stages before the plan in their order: what a model came with is kept, what is missing or stale is made."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model, Predictors, load_predictors
from powerinfer_cli.placement import ActivationStatistics, Placement, find_statistics, load_statistics
from powerinfer_cli.placement.group_activity import GroupActivity, load_group_activity
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.text import Tokenizer
from solver.default_text import default_chunks, given_chunks
from solver.predictor import DensityChoice, PredictorReport, Quality, TrainOptions
from solver.profile import ActiveRule, Chunks
from solver.sparsify import MOST_LOSS, SparsifyWishes, sparsify
from solver.stages import Place, SolverModel, density_stage, profile_stage
from solver.state import read_state

__all__ = ["Making", "SolveResult", "make"]


@dataclass(frozen=True)
class Making:
    """What is wanted. text: to run through the model, None for one that suits it. train: predictors, if the model has
    none; with `anew` also if it has. predictors: a directory of some that are there. density, most_loss: as
    `sparsify` takes them. force: nothing is kept of which nobody knows what it was made of.
    """

    text: str | None = None
    profile: bool = True
    train: bool = True
    anew: bool = False
    predictors: Path | None = None
    density: float | None = None
    most_loss: float | None = None
    options: TrainOptions = field(default_factory=TrainOptions)
    force: bool = False


@dataclass(frozen=True)
class SolveResult:
    """What there is now. folder: of the predictors, where they are not in the model. density: of a SiLU or GELU model.
    choice: how it was found.
    """

    statistics: ActivationStatistics | None = None
    together: GroupActivity | None = None
    predictors: Predictors | None = None
    folder: Path | None = None
    reports: tuple[PredictorReport, ...] = ()
    density: float | None = None
    choice: DensityChoice | None = None
    quality: Quality | None = None


def make(
    gguf: GGUFFile,
    options: EngineOptions,
    place: Place,
    wanted: Making,
    events: LoadEvents,
    *,
    placement: Placement | None = None,
    model: Model | None = None,
) -> SolveResult:
    """Run the stages, with the model where `placement` says. What is interrupted goes on there when repeated.

    model: the file's, where somebody has read it.

    Raises:
        PowerInferError: a text that is too short, files that are another model's, a disk that is full.
    """
    return _Run(gguf, SolverModel(gguf, options, events, placement, place.folder, model), place, wanted, events).all()


@dataclass(frozen=True)
class _Run:
    gguf: GGUFFile
    model: SolverModel
    place: Place
    wanted: Making
    events: LoadEvents

    def all(self) -> SolveResult:
        wanted, config, sparse = self.wanted, self.model.config, self.gguf.sparse
        relu = config.activation.has_exact_zeros
        if relu and (wanted.density is not None or wanted.most_loss is not None):
            raise UsageError("a ReLU model's neurons are active or not: leave --density and --max-quality-loss out")
        trains = wanted.train and wanted.predictors is None and (wanted.anew or not sparse)
        made = None
        statistics = self._statistics(ActiveRule(), trains) if wanted.profile and relu else None
        if trains:
            loss = MOST_LOSS if wanted.most_loss is None else wanted.most_loss
            made = sparsify(self.model, self.chunks, self.place, SparsifyWishes(wanted.density, loss), wanted.options)
        if not wanted.profile:
            try:
                statistics = self._found()
            except PowerInferError as error:
                raise PowerInferError(f"{error}: leave --plan-only out, and they are made anew") from error
        elif not relu:
            statistics = self._statistics(made.rule if made else self._rule(), trains)
        folder = self._predictors(trained=made is not None)
        predictors = load_predictors(folder, config.n_embd, config.n_ff) if folder else None
        together = self._together(statistics)
        if made is None:
            return SolveResult(statistics, together, predictors, folder, self._reports() if folder else ())
        return SolveResult(
            statistics, together, predictors, folder, tuple(made.reports), made.rule.density, made.choice, made.quality
        )

    def _predictors(self, *, trained: bool) -> Path | None:
        """Where they are, if they are not in the model."""
        if self.wanted.predictors is not None:
            return self.wanted.predictors
        there = self.place.predictor.is_dir() and not self.gguf.sparse
        return self.place.predictor if trained or there else None

    def _rule(self) -> ActiveRule:
        """For statistics of a SiLU or GELU model alone."""
        if self.wanted.density is not None:
            return ActiveRule(self.wanted.density)
        return ActiveRule(density_stage(self.model, self.chunks, None, self.wanted.most_loss).density)

    @cached_property
    def chunks(self) -> Chunks:
        """The text's tokens."""
        tokenizer = Tokenizer.from_gguf(self.gguf)
        if self.wanted.text is None:
            return default_chunks(self.model, tokenizer, self.place.folder)
        return given_chunks(self.model, tokenizer, self.wanted.text)

    def _statistics(self, rule: ActiveRule, trains: bool) -> ActivationStatistics:
        """Those that came with the model need no text, unless one is given, or one is needed for training anyway."""
        if self.wanted.text is None and not trains and not self.wanted.force:
            with suppress(PowerInferError):  # the stage says what is wrong with them, and makes others
                found = self._found()
                if found is not None:
                    return found
        return profile_stage(self.model, self.chunks, self.place, rule, force=self.wanted.force)

    @property
    def _folder(self) -> Path | None:
        return self.place.statistics if self.place.statistics.is_dir() else find_statistics(self.gguf.path)

    def _found(self) -> ActivationStatistics | None:
        """Statistics that are there, and of which nothing says that they are another model's."""
        folder, config = self._folder, self.model.config
        if folder is None:
            return None
        made_with = read_state(folder.parent).stages.get("activation", {}).get("made_with", {})
        if made_with.get("model", self.model.fingerprint) != self.model.fingerprint:
            self.events.note(f"{folder}: the activation statistics of another model")
            return None
        statistics = load_statistics(folder, config.n_ff)
        self.events.note(f"{folder}: activation statistics kept")
        return statistics

    def _together(self, statistics: ActivationStatistics | None) -> GroupActivity | None:
        folder = self._folder
        return load_group_activity(folder.parent, statistics.counts) if folder and statistics else None

    def _reports(self) -> tuple[PredictorReport, ...]:
        try:
            found = read_state(self.place.folder).found("predictor")["reports"]
            return tuple(PredictorReport(**report) for report in found)
        except (KeyError, TypeError):
            return ()  # predictors from elsewhere
