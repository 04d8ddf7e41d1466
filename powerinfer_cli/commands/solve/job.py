"""One run of `powerinfer solve`, from a model that is open to what was made, planned and measured."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.solve.costs import Costs
from powerinfer_cli.commands.solve.flags import PlanFlags, ReportFlags, StageFlags
from powerinfer_cli.commands.solve.outputs import check_outputs
from powerinfer_cli.commands.solve.place import results_place
from powerinfer_cli.commands.solve.plan import plan_stage, profiling_placement
from powerinfer_cli.commands.solve.target import Machine
from powerinfer_cli.errors import UsageError
from powerinfer_cli.files import check_writable
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import Model, load_model, with_predictors
from powerinfer_cli.model.turned import DownType, Width
from powerinfer_cli.opening import open_model_file
from powerinfer_cli.placement import Placement, model_fingerprint
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.text import Tokenizer
from solver.comparison import COMPARING, SECONDS, Comparison, Runnable, compare_models
from solver.merge import merge
from solver.others import OtherPrograms, busy_warning
from solver.placing.kept_costs import machine_name
from solver.profile import CHUNK, sample_text
from solver.report import PlanOutcome
from solver.run import Making, SolveResult, make
from solver.schedule import Schedule
from solver.sparsify import MOST_LOSS
from solver.turning import ENOUGH, narrowest_down
from solver.verdict import Judging, recorded_verdict

__all__ = ["Job", "Outcome", "check_files"]

MERGING, LOADING = 2e-8, 4e-9  # seconds a byte
LONGEST = 20_000  # characters of a text that is decoded


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    made: SolveResult
    planned: PlanOutcome | None = None
    compared: Comparison | None = None


@dataclass(frozen=True)
class Job:
    """A model and what is wished of it. text: as given. schedule: where what is to come is declared."""

    gguf: GGUFFile
    model: Model
    options: EngineOptions
    predictor: PredictorFlags
    stages: StageFlags
    plan: PlanFlags
    told: ReportFlags
    machine: Machine
    text: str | None
    schedule: Schedule
    events: LoadEvents

    def run(self) -> Outcome:
        """Raises PowerInferError."""
        place, plan_file = results_place(self.gguf, self.stages.output, self.events.note)
        check_files(self.gguf, self.stages, self.plan, self.told, plan_file)
        if self.stages.merge and self.gguf.sparse:
            raise UsageError(f"--merge: {self.gguf.path} has predictors already")
        if self.stages.merge and self.model.has_experts:
            raise UsageError(f"--merge: {self.gguf.path} has experts, whose down matrices are not transposed")
        placement, making = self._whole, self._making()
        made = make(
            self.gguf,
            self._how,
            place,
            making,
            self.events,
            placement=placement,
            model=self.model,
            schedule=self.schedule,
        )
        if made.ended:
            return Outcome(made)
        if made.stays_dense:
            self.events.note("no layer is faster with a predictor: the model stays dense, and nothing is to be placed")
            return Outcome(made)
        down: DownType = Width.AUTO
        if self.stages.merge and made.folder:
            down, measured = self._down(made)
            merge(self.gguf, made.folder, self.stages.merge, self.events, down=down, measured=measured)
        if self.stages.profile_only or self.stages.train_only:
            return Outcome(made)
        verdict = made.verdict or recorded_verdict(place.folder, model_fingerprint(self.gguf), self._machine_name)
        if verdict and not self._elsewhere and not self.machine.target.devices:
            self._costs.slowness, self._costs.rows = verdict.slowness, verdict.rows
        model = with_predictors(self.model, made.predictors, CompiledFit(), down) if made.predictors else self.model
        planned = plan_stage(
            self.gguf, model, self.options, made, self._costs, self.plan, plan_file, self._ids, self.events
        )
        return Outcome(made, planned, None if self.stages.plan_only else self._compare(made, planned))

    @cached_property
    def _how(self) -> EngineOptions:
        return replace(self.options, n_ctx=0)

    @cached_property
    def _whole(self) -> Placement | None:
        return profiling_placement(self.gguf, self.model, self._how, self.machine)

    @cached_property
    def _costs(self) -> Costs:
        return Costs(self.machine, self.events)

    def _making(self) -> Making:
        stages, wishes = self.stages, self.plan.wishes()
        judging = Judging(
            stages.density,
            stages.recall,
            lambda: self._costs.for_verdict(self.gguf, self.model, self.options, wishes.max_layers),
            self._machine_name,
            here=not self._elsewhere,
            gpus=any(self.machine.target.budgets or self.machine.target.devices),
        )
        return Making(
            text=self.text,
            profile=not (stages.train_only or stages.plan_only),
            train=not (stages.profile_only or stages.plan_only),
            retrain=stages.train_only,
            predictors=self.predictor.predictor_path,
            density=stages.density,
            most_loss=stages.max_quality_loss,
            options=stages.training(self._whole.devices[0] if self._whole else "cpu"),
            anew=stages.anew,
            judging=judging,
            force=stages.force,
            verdict_only=stages.verdict,
            measures_down=self.stages.measures_down,
            after=self._after(),
        )

    @property
    def _machine_name(self) -> str:
        """What a verdict holds for."""
        machine, threads = self.machine, self.options.n_threads
        name = machine.name or machine_name(machine.target.devices)
        return f"{name} {machine.target.budgets} {self.plan.wishes().max_layers} {threads}"

    def _after(self) -> dict[str, float]:
        """Seconds of what follows."""
        found = {"merging": MERGING * self.model.nbytes} if self.stages.merge else {}
        return found if self._elsewhere else {**found, COMPARING: 4 * SECONDS + LOADING * self.model.nbytes}

    def _down(self, made: SolveResult) -> tuple[DownType, bool]:
        """In which type down matrices are turned, and whether what that costs was measured."""
        measurable = len(made.held) > ENOUGH or self.stages.down_type is not None
        if not self.stages.measures_down or made.predictors is None or not measurable:
            return self.stages.down(), False
        options = replace(self.options, n_ctx=min(CHUNK, self.model.config.n_ctx_train))
        return narrowest_down(self.model, made.predictors, options, made.held, self.events), True

    @property
    def _elsewhere(self) -> bool:
        """Whether the plan is for another machine."""
        return self.machine.profile is not None or self.machine.target.rehearsed

    def _compare(self, made: SolveResult, planned: PlanOutcome) -> Comparison | None:
        """None where the plan is for another machine, or there is nothing to compare."""
        if self._elsewhere:
            return None
        if not self.gguf.sparse and not made.predictors:
            return None
        options = replace(self.options, n_ctx=planned.n_ctx)
        placed = planned.result.plan
        placement = Placement(placed, self.machine.target.devices) if placed.gpus else None
        sparse = Runnable(self._sparse(made), options, made.statistics, placement)
        dense = Runnable(self.model, replace(options, all_active=True), None, self._whole)
        watched = OtherPrograms.watch()
        found = compare_models(dense, sparse, made.held or self._ids(), self.events)
        if warning := busy_warning(watched.cores(), "both models decoded"):
            self.events.note(warning)
        most = MOST_LOSS if self.stages.max_quality_loss is None else self.stages.max_quality_loss
        return Comparison(*found, planned.result.prediction.tokens_per_second, made.quality, most)

    def _sparse(self, made: SolveResult) -> Model:
        if self.stages.merge and made.folder:
            return load_model(open_model_file(self.stages.merge))
        return with_predictors(self.model, made.predictors, CompiledFit()) if made.predictors else self.model

    def _ids(self) -> list[int]:
        tokenizer = Tokenizer.from_gguf(self.gguf)
        text = sample_text() if self.text is None else self.text
        return tokenizer.encode(text[:LONGEST], add_special=tokenizer.add_bos, parse_special=False)


def check_files(gguf: GGUFFile, stages: StageFlags, plan: PlanFlags, told: ReportFlags, plan_file: Path | None) -> None:
    """What will be written, against what is read."""
    if plan_file is not None:
        check_writable(plan_file.parent, "name another place with -o")
    named = {"--merge": stages.merge, "--report": told.report}
    if plan_file is not None and plan_file == stages.output:
        named["-o"] = plan_file
    given = [stages.file, None if plan.device_profile is None else Path(plan.device_profile)]
    check_outputs(named, [*gguf.files, *(path for path in given if path is not None)])
