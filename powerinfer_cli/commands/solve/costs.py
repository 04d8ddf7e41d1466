"""What this machine costs, or the one that is planned for: measured once a run, with a word on who else is at work."""

from dataclasses import dataclass, field

from powerinfer_cli.commands.solve.target import Machine
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model
from powerinfer_cli.opening import Companions
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.others import OtherPrograms, busy_warning
from solver.placing import DeviceProfile
from solver.verdict import MachineCosts, slowed

__all__ = ["Costs"]


@dataclass
class Costs:
    """Of one machine, for one model's type of weights. slowness: how many times as long as these say the model was
    seen to take, once that is known; rows: how many times as long again its sparse FFNs.
    """

    machine: Machine
    events: LoadEvents
    slowness: float = 1.0
    rows: float = 1.0
    _found: list[tuple[DeviceProfile, str, float | None]] = field(default_factory=list)

    def of(self, job: PlanJob) -> tuple[DeviceProfile, str]:
        """Costs, and what names them: a profile's that was given, else measured now. Raises PowerInferError."""
        profile, name, _ = self._of(job)
        return (profile if self.slowness == self.rows == 1 else slowed(profile, self.slowness, self.rows)), name

    def for_verdict(self, gguf: GGUFFile, model: Model, options: EngineOptions, max_layers: int | None) -> MachineCosts:
        """For a dense model's verdict. Raises PowerInferError."""
        job = PlanJob.of(gguf, model, options, self.machine.target, Companions(None, None), max_layers)
        profile, _, others = self._of(job)
        here = self.machine.profile is None and not self.machine.target.rehearsed
        return MachineCosts(profile, job.sizes, job.budgets, job.settings("milp"), here, others)

    def _of(self, job: PlanJob) -> tuple[DeviceProfile, str, float | None]:
        if not self._found:
            if self.machine.profile is not None:
                self._found.append((self.machine.profile, self.machine.name, None))
            else:
                before = OtherPrograms.watch()
                profile, name = job.costs(self.events, anew=True)
                self._found.append((profile, name, before.cores()))
                warning = busy_warning(self._found[0][2], "costs were measured")
                if warning:
                    self.events.note(warning)
        return self._found[0]
