"""The stages before the plan in their order: what a model came with is kept, what is missing or stale is made."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import Model, Predictors, load_predictors, with_predictors
from powerinfer_cli.placement import ActivationStatistics, Placement, RouteTrace
from powerinfer_cli.placement.group_activity import GroupActivity, load_group_activity
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.text import Tokenizer
from solver.default_text import (
    PROBED,
    READING_SAMPLE,
    default_chunks,
    given_chunks,
    read_size,
    short_default,
    verdict_text,
)
from solver.duration import seconds_to_come
from solver.held_out_stages import DENSE_QUALITY, SPARSE_QUALITY, density_stage
from solver.predictor import IMPROVING, DensityChoice, PredictorReport, Quality, TrainOptions
from solver.profile import OFTEN, ActiveRule, Chunks, Text, held_out, sample_documents
from solver.routing.profile import PROFILE, counted, found_routes, record_routes, routes_stage
from solver.routing.verdict import ExpertVerdict, judge_experts
from solver.schedule import Schedule
from solver.sparsify import MOST_LOSS, SparsifyWishes, sparsify
from solver.stages import (
    PREDICTOR,
    Place,
    SolverModel,
    own_statistics,
    profile_stage,
    statistics_folder,
    statistics_in,
    told_of,
)
from solver.state import read_state
from solver.turning import TURNING, turning_seconds
from solver.verdict import (
    MEASURING,
    READING,
    Judging,
    Seen,
    Verdict,
    WorkRates,
    expected_rates,
    expected_seconds,
    judge,
    look_at_predictors,
    recorded_verdict,
)
from solver.verdict.look import short_text
from solver.verdict.tried_decoding import is_small

__all__ = ["Making", "SolveResult", "make"]

LENGTHS = (1 << 20, 1 << 18, 1 << 17, 65536, 49152, 40960, 32768, 24576, 20480, 16384, 12288, 8192)  # tokens of a text


@dataclass(frozen=True)
class Making:
    """What is wanted. text: to run through the model, None for one that suits it. train: predictors, if the model has
    none; with `retrain` also if it has. predictors: a directory of some that are there. density, most_loss: as
    `sparsify` takes them. anew: nothing is kept of which nobody knows what it was made of, and no verdict. judging: how
    predictors for a dense model are judged before they are made, None: not at all; what does not pay is made with
    `force` only, and nothing at all with `verdict_only`. measures_down: the caller then tries types of down matrices.
    after: seconds of what else it does then, by its words.
    """

    text: str | None = None
    profile: bool = True
    train: bool = True
    retrain: bool = False
    predictors: Path | None = None
    density: float | None = None
    most_loss: float | None = None
    options: TrainOptions = field(default_factory=TrainOptions)
    anew: bool = False
    judging: Judging | None = None
    force: bool = False
    verdict_only: bool = False
    measures_down: bool = False
    after: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SolveResult:
    """What there is now. folder: of the predictors, where they are not in the model. density: of a SiLU or GELU model.
    choice: how it was found. experts, routes: of a mixture. ended: nothing was made. held: tokens of documents that
    nothing was made of, where a text was read. seen: of a model that has predictors.
    """

    statistics: ActivationStatistics | None = None
    together: GroupActivity | None = None
    predictors: Predictors | None = None
    folder: Path | None = None
    reports: tuple[PredictorReport, ...] = ()
    density: float | None = None
    choice: DensityChoice | None = None
    quality: Quality | None = None
    verdict: Verdict | None = None
    experts: ExpertVerdict | None = None
    routes: RouteTrace | None = None
    ended: bool = False
    held: tuple[int, ...] = ()
    seen: Seen | None = None

    @property
    def stays_dense(self) -> bool:
        """Whether predictors were made, and pay in no layer."""
        return bool(self.reports) and all(report.is_dense for report in self.reports)


def make(
    gguf: GGUFFile,
    options: EngineOptions,
    place: Place,
    wanted: Making,
    events: LoadEvents,
    *,
    placement: Placement | None = None,
    model: Model | None = None,
    schedule: Schedule | None = None,
) -> SolveResult:
    """Run the stages, with the model where `placement` says. What is interrupted goes on there when repeated.

    model: the file's, where somebody has read it. schedule: what is to come is declared there.

    Raises:
        PowerInferError: a text that is too short, files that are another model's, a disk that is full.
    """
    ran = SolverModel(gguf, options, events, placement, place.folder, model)
    if not ran.config.writes:
        raise PowerInferError(
            f"{gguf.path}: makes vectors of texts and decodes none: there is nothing to gain by neurons"
        )
    return _Run(gguf, ran, place, wanted, events, schedule or Schedule()).all()


def _check_neurons(gguf: GGUFFile, model: Model) -> None:
    """Raises PowerInferError: some layers have none."""
    bare = next((i for i, n_ff in enumerate(model.config.n_ff) if not n_ff), None)
    if bare is not None:
        more = "; --no-predictors --merge FILE spares their zeros" if model.config.activation.has_exact_zeros else ""
        raise PowerInferError(
            f"{gguf.path}: layer {bare} has no neurons: predictors are for models with some in each{more}"
        )


@dataclass(frozen=True)
class _Run:
    gguf: GGUFFile
    model: SolverModel
    place: Place
    wanted: Making
    events: LoadEvents
    schedule: Schedule

    def all(self) -> SolveResult:
        if self.model.model.has_experts:
            return self._of_experts()
        _check_neurons(self.gguf, self.model.model)
        wanted, config, sparse, begun = self.wanted, self.model.config, self.gguf.sparse, time.monotonic()
        relu = config.activation.has_exact_zeros
        if relu and (wanted.density is not None or wanted.most_loss is not None):
            raise UsageError("a ReLU model's neurons are active or not: leave --density and --max-quality-loss out")
        trains = wanted.train and wanted.predictors is None and (wanted.retrain or not sparse)
        if wanted.verdict_only and (sparse or wanted.predictors):
            return SolveResult(seen=self._seen(), ended=True)
        verdict = self._verdict() if trains and not sparse else None
        if wanted.verdict_only or (verdict is not None and not verdict.pays and not wanted.force):
            return SolveResult(verdict=verdict, ended=True)
        if verdict is not None:
            for line in [*verdict.lines(), verdict.sentence(forced=True)]:
                self.events.note(line)
            self.schedule.declare(self._usually_to_come(verdict.rates))
            sizes = sum(map(len, self.chunks)), sum(map(len, held_out(self.chunks)[1]))
            self.schedule.declare(self._to_come(verdict.rates, *sizes))
        elif not trains and wanted.profile:
            rates = expected_rates(self.model)
            self.schedule.declare({READING_SAMPLE: PROBED * rates.reading, PROFILE: self._usual * rates.reading})
        made = None
        statistics = self._statistics(ActiveRule(), trains) if wanted.profile and relu else None
        if trains:
            loss = MOST_LOSS if wanted.most_loss is None else wanted.most_loss
            options = self._in_time(verdict, begun)
            made = sparsify(self.model, self.chunks, self.place, SparsifyWishes(wanted.density, loss), options)
        if not wanted.profile:
            try:
                statistics = self._found()
            except PowerInferError as error:
                raise PowerInferError(f"{error}: leave --plan-only out, and they are made anew") from error
        elif not relu and not (made and all(report.is_dense for report in made.reports)):
            statistics = self._statistics(made.rule if made else self._rule(), trains)
        folder = self._predictors(trained=made is not None)
        predictors = load_predictors(folder, config.n_embd, config.n_ff) if folder else None
        together = self._together(statistics)
        if made is None:
            return SolveResult(statistics, together, predictors, folder, self._reports() if folder else ())
        found = made.rule.density, made.choice, made.quality
        held = tuple(token for chunk in held_out(self.chunks)[1] for token in chunk)
        return SolveResult(statistics, together, predictors, folder, tuple(made.reports), *found, verdict, held=held)

    def _of_experts(self) -> SolveResult:
        """Of a mixture: its routers know what is needed, and what is counted are experts."""
        wanted, model, judged = self.wanted, self.model, self.wanted.judging if self.wanted.train else None
        if wanted.retrain or wanted.predictors or wanted.density is not None or wanted.most_loss is not None:
            raise UsageError(
                f"{self.gguf.path}: a mixture's routers say which experts are needed: there are no predictors to train "
                "or to give it (--train-only, --predictor-path, --density, --max-quality-loss)"
            )
        if not wanted.profile:
            statistics, there = counted(model, self.place)
            return SolveResult(statistics, routes=there)
        known = None if wanted.text is not None or wanted.anew else found_routes(model, self.place)
        verdict = None
        if judged is not None:
            self._declare_reading(judged)
            trace = known[1] if known else self._short_trace()
            model.events.progress(MEASURING, 0, 1)
            verdict = judge_experts(model.model, trace, judged.machine if judged.gpus else None)
            model.events.progress(MEASURING, 1, 1)
        if wanted.verdict_only or (verdict is not None and not verdict.pays and not wanted.force):
            return SolveResult(experts=verdict, ended=True)
        for line in [*verdict.lines(), verdict.sentence(forced=True)] if verdict else ():
            self.events.note(line)
        statistics, routes = known or routes_stage(model, self.chunks, self.place, force=wanted.anew)
        return SolveResult(statistics, experts=verdict, routes=routes)

    def _short_trace(self) -> RouteTrace:
        pieces, model = short_text(self._short(), self.model.weights), self.model
        found = record_routes(model.open_engine(), model.model, pieces, model.events, READING)
        model.forget_engine()  # measuring takes memory, too
        return found

    def _declare_reading(self, judged: Judging) -> None:
        rates = expected_rates(self.model)
        measuring = expected_seconds(rates)[MEASURING] if judged.here and judged.gpus else 0.0
        short = {READING_SAMPLE: PROBED * rates.reading, READING: rates.tokens * rates.reading, MEASURING: measuring}
        usual = {PROFILE: self._usual * rates.reading}
        self.schedule.declare(short if self.wanted.verdict_only else {**short, **usual})

    def _seen(self) -> Seen:
        """Of a model with predictors, in the file or beside it."""
        if self.wanted.predictors is not None:
            found = load_predictors(self.wanted.predictors, self.model.config.n_embd, self.model.config.n_ff)
            self.model.model = with_predictors(self.model.model, found, CompiledFit())
        return look_at_predictors(self.model, self._short(), self.events)

    def _in_time(self, verdict: Verdict | None, begun: float) -> TrainOptions:
        """As predictors are made once a verdict has told how fast: gradient steps end in time for what follows them."""
        options = self.wanted.options
        if verdict is None:
            return options
        held = sum(map(len, held_out(self.chunks)[1]))
        all_work = self._to_come(verdict.rates, sum(map(len, self.chunks)), held)
        after = sum(seconds for what, seconds in all_work.items() if what in (DENSE_QUALITY, *self.wanted.after))
        after += (
            all_work.get(TURNING, 0.0) + all_work[SPARSE_QUALITY] + (all_work[PROFILE] if verdict.rates.graded else 0.0)
        )
        return replace(options, speed=verdict.speed, until=begun + options.time_budget - after)

    def _most_tokens(self) -> int | None:
        """Of a text, with which `time_budget` is enough for all but gradient steps; None where nobody knows."""
        recorded = recorded_verdict(self.place.folder, self.model.fingerprint)
        if recorded is None or not self.wanted.train:
            return None
        budget, rates = self.wanted.options.time_budget, recorded.rates
        most = next((n for n in LENGTHS if self._without_steps(rates, n) <= budget), LENGTHS[-1])
        if most < self._usual:
            needed = self._without_steps(rates, most)
            more = "" if needed <= budget else f"; even so about {needed / 60:.0f} min will be needed"
            told = f"--time-budget {budget / 60:g}: a text of {most:,} tokens, not {self._usual:,}"
            self.events.note(told + more)
        return most

    def _without_steps(self, rates: WorkRates, tokens: int) -> float:
        work = self._to_come(rates, tokens, tokens // OFTEN)
        return sum(work.values()) - work[IMPROVING]

    def _verdict(self) -> Verdict | None:
        """None where it is of no use: predictors of this model are there, and were made by this program."""
        judging = self.wanted.judging
        if judging is None:
            return None
        made_with = read_state(self.place.folder).stages.get(PREDICTOR, {}).get("made_with", {})
        solved = made_with.get("model") == self.model.fingerprint and self.place.predictor.is_dir()
        if solved and not self.wanted.verdict_only:
            return None
        rates = expected_rates(self.model)
        rest = {} if self.wanted.verdict_only else self._usually_to_come(rates)
        if self.wanted.text is None and is_small(self.model.model):  # it may know little of the sample
            self.schedule.declare({READING_SAMPLE: PROBED * rates.reading, **expected_seconds(rates)})
            self.schedule.declare({what: seconds for what, seconds in rest.items() if what != READING_SAMPLE})
            text: Chunks = verdict_text(self.model, Tokenizer.from_gguf(self.gguf))
        else:
            text = self._sample()
        self.schedule.declare({**expected_seconds(rates), **rest})
        return judge(self.model, text, self.place, judging, anew=self.wanted.anew)

    def _usually_to_come(self, rates: WorkRates) -> dict[str, float]:
        """With a text of the usual size."""
        usual = self._usual
        return {READING_SAMPLE: PROBED * rates.reading, **self._to_come(rates, usual, usual // 8)}

    @property
    def _usual(self) -> int:
        """Tokens of a text that nobody gave."""
        return read_size(self.model.weights)

    def _to_come(self, rates: WorkRates, tokens: int, held: int) -> dict[str, float]:
        budget = self.wanted.options.time_budget if self.wanted.options.predictor.steps else 0.0
        found = seconds_to_come(rates, tokens, held, budget, searched=self.wanted.density is None)
        if self.wanted.measures_down:
            model = self.model
            found[TURNING] = turning_seconds(model.model, held, rates.reading, model.options.threads[1])
        return {**found, **self.wanted.after}

    def _short(self) -> Chunks:
        """A text, or some of what would be read without one."""
        if self.wanted.text is None:
            return short_default(self.model, Tokenizer.from_gguf(self.gguf))
        return self._sample()

    def _sample(self) -> Chunks:
        """What a dense model's verdict is found on. It is recorded by its text: no weight is read to choose that."""
        tokenizer = Tokenizer.from_gguf(self.gguf)
        bos = tokenizer.bos_id if tokenizer.add_bos else None
        if self.wanted.text is None:
            texts = [document.text for document in sample_documents()]
            documents = [tokenizer.encode(text, add_special=False, parse_special=False) for text in texts]
            return Text.of(documents, self.model.n_ctx, bos)
        return self._given

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
        """The text's tokens, or as many of them as there is time for."""
        most = self._most_tokens()
        if self.wanted.text is None:
            return default_chunks(self.model, Tokenizer.from_gguf(self.gguf), self.place.folder, most)
        return self._given if most is None else self._given.about(most)

    @cached_property
    def _given(self) -> Text:
        """All of the text that somebody gave."""
        assert self.wanted.text is not None
        return given_chunks(self.model, Tokenizer.from_gguf(self.gguf), self.wanted.text)

    def _statistics(self, rule: ActiveRule, trains: bool) -> ActivationStatistics:
        """Those that came with the model need no text, unless one is given, or one is needed for training anyway."""
        if self.wanted.text is None and not trains and not self.wanted.anew:
            with suppress(PowerInferError):  # the stage says what is wrong with them, and makes others
                found = self._found()
                if found is not None:
                    return found
        return profile_stage(self.model, self.chunks, self.place, rule, force=self.wanted.anew, trains=trains)

    def _found(self) -> ActivationStatistics | None:
        """Statistics that are there, and of which nothing says that they are another model's."""
        found = own_statistics(self.model, self.place)
        if found is None:
            return None
        folder, owner = found
        statistics = statistics_in(folder, self.model.config.n_ff)
        self.events.note(told_of(folder, statistics, owner))
        return statistics

    def _together(self, statistics: ActivationStatistics | None) -> GroupActivity | None:
        folder = statistics_folder(self.gguf, self.place)
        return load_group_activity(folder.parent, statistics.counts) if folder and statistics else None

    def _reports(self) -> tuple[PredictorReport, ...]:
        try:
            found = read_state(self.place.folder).found("predictor")["reports"]
            return tuple(PredictorReport(**report) for report in found)
        except (KeyError, TypeError):
            return ()  # predictors from elsewhere
