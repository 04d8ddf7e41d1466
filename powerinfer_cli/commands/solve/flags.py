"""The flags of `powerinfer solve`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.shared.flags.placement import DeviceFlag, wishes_of
from powerinfer_cli.errors import UsageError

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.model.turned import DownType
    from powerinfer_cli.opening import PlacementWishes
    from solver.predictor import TrainOptions

__all__ = ["LinkFlag", "MachinesFlags", "ObjectiveFlag", "PlanFlags", "ReportFlags", "StageFlags"]

MOST_MINUTES = 100_000
MEASURED = "measured"


class ObjectiveFlag(StrEnum):
    """How hot neurons are chosen: solver.placing.planning's names."""

    MILP = "milp"
    GREEDY = "greedy"
    FREQUENCY = "frequency"


def _stage(*names: str, help: str, metavar: str | None = None, low: int | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, min=low, rich_help_panel="Profile and predictors")


def _plan(*names: str, help: str, metavar: str | None = None, low: int | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, min=low, rich_help_panel="Plan")


def _machines(*names: str, help: str, metavar: str | None = None, **limits: Any) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Several machines", **limits)


def _report(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Report")


@dataclass(frozen=True)
class StageFlags:
    """What is made before the plan, of what, and where it goes."""

    file: Annotated[
        Path | None,
        _stage("-f", "--file", metavar="FILE", help="Text to profile by. Without: one that suits the model."),
    ] = None
    output: Annotated[
        Path | None,
        _stage(
            "-o", "--output", metavar="DIR|FILE", help="Where results go, or the plan's FILE.gpuidx. Default: beside."
        ),
    ] = None
    profile_only: Annotated[bool, _stage("--profile-only", help="Make activation statistics, and end.")] = False
    train_only: Annotated[bool, _stage("--train-only", help="Train predictors, even if there are some, and end.")] = (
        False
    )
    plan_only: Annotated[bool, _stage("--plan-only", help="Only plan, by what is there.")] = False
    recall: Annotated[
        float, _stage("--recall", metavar="N", help="Share of active neurons that predictors must find.")
    ] = 0.95
    rank: Annotated[
        int | None, _stage("--rank", metavar="N", low=1, help="Of all predictors; without, chosen for each layer.")
    ] = None
    steps: Annotated[
        int, _stage("--steps", metavar="N", low=0, help="Gradient steps of a layer in which they pay; 0: none.")
    ] = 500
    time_budget: Annotated[
        float,
        _stage(
            "--time-budget",
            metavar="MIN",
            help="Minutes for all: texts are shortened to keep to it; such steps, most valuable layers first, get the "
            "rest.",
        ),
    ] = 30.0
    density: Annotated[
        float | None, _stage("--density", metavar="N", help="SiLU, GELU: share of neurons to keep, the largest.")
    ] = None
    max_quality_loss: Annotated[
        float | None,
        _stage("--max-quality-loss", metavar="N", help="SiLU, GELU: the lowest density that costs no more (0.05)."),
    ] = None
    merge: Annotated[
        Path | None, _stage("--merge", metavar="FILE", help="Write model and predictors as one PowerInfer GGUF.")
    ] = None
    down_type: Annotated[
        str | None,
        _stage(
            "--down-type",
            metavar="TYPE",
            help="Of its turned down matrices: same (as they were), q8_0, q6_k, q5_k, ..., auto: as wide as loses next "
            "to nothing, or measured: the narrowest from same to auto that costs at most 0.5 % of perplexity beside "
            "auto. Default: measured where a text is held out, else auto.",
        ),
    ] = None
    no_predictors: Annotated[
        bool, _stage("--no-predictors", help="In it there are none, for ReLU and ReLU squared: only turned matrices.")
    ] = False
    verdict: Annotated[bool, _stage("--verdict", help="Say what the model can gain, and end.")] = False
    force: Annotated[bool, _stage("--force", help="Go on where the verdict is that it does not pay.")] = False
    anew: Annotated[bool, _stage("--anew", help="Make anew what nobody knows the origin of, and the verdict.")] = False

    def check(self) -> None:
        """Raises UsageError."""
        alone = [self.profile_only, self.train_only, self.plan_only, self.verdict]
        if sum(alone) > 1:
            raise UsageError("--profile-only, --train-only, --plan-only and --verdict exclude each other")
        if self.verdict and self.force:
            raise UsageError("--verdict ends with the verdict, and --force goes on: give one")
        if not 0 < self.recall < 1:
            raise UsageError(f"--recall must be between 0 and 1, got {self.recall:g}")
        if not 0 <= self.time_budget <= MOST_MINUTES:
            raise UsageError(f"--time-budget must be from 0 to {MOST_MINUTES} minutes, got {self.time_budget:g}")
        if self.density is not None and not 0 < self.density <= 1:
            raise UsageError(f"--density must be above 0 and at most 1, got {self.density:g}")
        if self.max_quality_loss is not None and not self.max_quality_loss >= 0:
            raise UsageError(f"--max-quality-loss must be from 0 on, got {self.max_quality_loss:g}")
        if self.density is not None and self.max_quality_loss is not None:
            raise UsageError("--density and --max-quality-loss exclude each other: one is found from the other")
        if self.down_type is not None and not self.merge:
            raise UsageError("--down-type says how --merge FILE is written: give that, too")
        if self.down_type is not None:
            self.down()
        if self.no_predictors:
            self._check_alone(any(alone))
        if self.merge and (self.plan_only or self.verdict):
            raise UsageError(f"--merge has nothing to write with {'--plan-only' if self.plan_only else '--verdict'}")

    def _check_alone(self, staged: bool) -> None:
        """Of --no-predictors."""
        if not self.merge:
            raise UsageError("--no-predictors says how --merge FILE is written: give that, too")
        if (self.down_type or "").lower() == MEASURED:
            raise UsageError("--down-type measured needs a text, and --no-predictors reads none: name a type")
        if staged:
            raise UsageError("--no-predictors only writes --merge FILE: it goes with no other stage")

    @property
    def measures_down(self) -> bool:
        """Whether the type of down matrices is found by trying."""
        return bool(self.merge) and not self.no_predictors and (self.down_type or MEASURED).lower() == MEASURED

    def down(self) -> "DownType":
        """As merging takes it. Raises UsageError."""
        from powerinfer_cli.gguf_io import GGMLType
        from powerinfer_cli.gguf_io.encoders import BY_GRID
        from powerinfer_cli.model.turned import FLOATS, Width

        named: dict[str, Width | GGMLType] = {width.value: width for width in Width}
        named[MEASURED] = Width.AUTO
        named |= {kind.name.lower(): kind for kind in sorted((*BY_GRID, *FLOATS))}
        found = named.get((self.down_type or Width.AUTO).lower())
        if found is None:
            raise UsageError(f"--down-type {str(self.down_type)[:40]}: choose from {', '.join(named)}")
        return found

    def training(self, device: str) -> "TrainOptions":
        """As the solver takes it. device: as torch names it."""
        from solver.predictor import PredictorOptions, RankOptions, TrainOptions

        return TrainOptions(
            PredictorOptions(recall=self.recall, steps=self.steps, device=device),
            RankOptions(rank=self.rank),
            60 * self.time_budget,
        )


@dataclass(frozen=True)
class PlanFlags:
    """What the plan is for. Also by the names of other solvers."""

    vram_budget: Annotated[
        str | None,
        _plan("--vram-budget", "--gpu-memory-gb", metavar="GiB,...", help="GPU memory to use, a number for each GPU."),
    ] = None
    gpu_layers: Annotated[
        int | None,
        _plan(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            "--target-gpu-layers",
            metavar="N",
            low=-1,
            help="At most the last N layers have neurons on the GPU.",
        ),
    ] = None
    main_gpu: Annotated[int | None, _plan("-mg", "--main-gpu", metavar="N", low=0, help="First GPU to use.")] = None
    tensor_split: Annotated[
        str | None, _plan("-ts", "--tensor-split", metavar="N,...", help="How GPUs share layers; else by budget.")
    ] = None
    device: Annotated[
        DeviceFlag | None, _plan("--device", help="cpu: use no GPU for any of this; mps: plan for a Mac's GPU.")
    ] = None
    device_profile: Annotated[
        str | None,
        _plan("--device-profile", metavar="NAME|FILE", help="Plan for that machine; `list` shows the names."),
    ] = None
    solver: Annotated[
        ObjectiveFlag, _plan("--solver", help="frequency: the original's objective, most activations on the GPU.")
    ] = ObjectiveFlag.MILP

    def wishes(self) -> "PlacementWishes":
        """As opening a model takes them. Raises UsageError."""
        return wishes_of(
            self.vram_budget, self.tensor_split, self.device, gpu_layers=self.gpu_layers, main_gpu=self.main_gpu
        )


class LinkFlag(StrEnum):
    """As `cluster run` has it."""

    F32 = "f32"
    BF16 = "bf16"

    @property
    def n_bytes(self) -> int:
        """Of a number."""
        return 4 if self is LinkFlag.F32 else 2


@dataclass(frozen=True)
class MachinesFlags:
    """For which machines layers are divided."""

    machines: Annotated[
        Path | None,
        _machines("--machines", metavar="FILE", help="Divide layers among the machines of a JSON file, and end."),
    ] = None
    parallel: Annotated[
        int,
        _machines("-np", "--parallel", metavar="N", help="Texts at the same time to plan for.", min=1, max=1024),
    ] = 1
    link_type: Annotated[LinkFlag, _machines("--link-type", help="Of numbers between machines.")] = LinkFlag.F32
    measure_machine: Annotated[
        Path | None,
        _machines("--measure-machine", metavar="FILE", help="Write what this machine costs, for such a file, and end."),
    ] = None

    @property
    def wanted(self) -> bool:
        """Whether there are several machines to plan for, or this one is to be measured for that."""
        return self.machines is not None or self.measure_machine is not None

    def check(self, stages: StageFlags, plan: PlanFlags, told: "ReportFlags") -> None:
        """Raises UsageError."""
        if self.machines is None and (self.parallel != 1 or self.link_type is not LinkFlag.F32):
            raise UsageError("-np and --link-type say what --machines FILE plans for: give that, too")
        if not self.wanted:
            return
        if self.machines is not None and self.measure_machine is not None:
            raise UsageError("--machines plans by what --measure-machine has written: give one")
        flag = "--machines" if self.machines is not None else "--measure-machine"
        if stages != StageFlags():
            raise UsageError(f"{flag} makes no statistics and no predictors: leave their flags out")
        if self.machines is not None and plan != PlanFlags():
            raise UsageError("--machines: the file says what each machine has: leave flags for this one's GPUs out")
        if told.report is not None:
            raise UsageError(f"{flag} has no page: leave --report out, or take --json")


@dataclass(frozen=True)
class ReportFlags:
    """How it is told."""

    report: Annotated[Path | None, _report("--report", metavar="FILE", help="A page (HTML) with figures.")] = None
    json: Annotated[bool, _report("--json", help="JSON on standard output instead of tables.")] = False
