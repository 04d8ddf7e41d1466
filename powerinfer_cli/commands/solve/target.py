"""For which machine `powerinfer solve` plans: this one, one of a device profile, or one that stands for a GPU."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from powerinfer_cli.commands.shared.flags.placement import DeviceFlag
from powerinfer_cli.commands.solve.flags import PlanFlags
from powerinfer_cli.errors import UsageError
from powerinfer_cli.opening.planning.gpus import LEAST_SPARE, SPARE, UNIFIED, Target, find_target
from powerinfer_cli.opening.planning.plan_files import GIVEN
from powerinfer_cli.opening.planning.plan_job import STAND_IN
from powerinfer_cli.placement import check_budgets, shown_bytes
from solver.placing import DeviceProfile, bundled_profiles, load_profile

__all__ = ["Machine", "find_machine", "whole_target"]

Note = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """target: its GPUs. profile: its costs, None for those of this machine; `name`: what names them."""

    target: Target
    profile: DeviceProfile | None = None
    name: str = ""

    @property
    def gpus(self) -> tuple[str, ...]:
        """Names for people."""
        if self.profile is None:
            return self.target.devices
        return tuple(self.profile.gpu(index).name for index in range(len(self.target.devices)))


def find_machine(flags: PlanFlags, note: Note) -> Machine:
    """Raises PowerInferError: no such profile; UsageError: budgets or shares that cannot be, no budget where needed."""
    here = flags.device is DeviceFlag.MPS or (flags.device is not DeviceFlag.CPU and torch.cuda.is_available())
    wishes = flags.wishes()
    budgets, shares = wishes.vram_budget, wishes.tensor_split
    if flags.device_profile is None and here:
        target = find_target(wishes, note)
        if target is not None:
            return Machine(target)
    if flags.device_profile is None and budgets is None:
        if flags.gpu_layers or shares or flags.main_gpu:
            note("no GPU is used: -ngl, -mg and -ts need --vram-budget, or --device-profile, to plan for one")
        return Machine(Target((), ()))
    name = flags.device_profile
    if name is None:
        name = _stand_in(max(budgets or (0,)), note)
    profile = load_profile(name)
    if budgets is not None:
        # Of a machine that only stands for one, as many GPUs may be asked for, and as large ones.
        if flags.device_profile is not None:
            check_budgets(budgets, [gpu.memory or 1 << 62 for gpu in profile.gpus])
    else:
        unknown = [str(index) for index, gpu in enumerate(profile.gpus) if not gpu.memory]
        if unknown:
            raise UsageError(f"{name} does not say how much memory GPU {', '.join(unknown)} has: give --vram-budget")
        budgets = tuple(max(0, gpu.memory - max(LEAST_SPARE, int(SPARE * gpu.memory))) for gpu in profile.gpus)
    if profile.link.unified:
        note(UNIFIED)
    return Machine(Target(("cpu",) * len(budgets), budgets, shares), profile, GIVEN + name)


def _stand_in(budget: int, note: Note) -> str:
    """The known machine with the smallest GPU that has so many bytes; a note says whose costs the plan is made by."""
    known = {name: load_profile(name).gpus[0] for name in bundled_profiles()}
    by_size = sorted(known, key=lambda name: (known[name].memory, name != STAND_IN))
    name = next((name for name in by_size if known[name].memory >= budget), by_size[-1])
    card = known[name]
    note(
        f"no CUDA GPU is used here: the plan is for another machine, with {card.name}, by its data sheet "
        "(--device-profile takes another)"
    )
    if budget > card.memory:
        note(
            f"warning: {shown_bytes(budget)} is more than any GPU has whose data sheet is here: "
            f"planned as if {card.name} had it; give --device-profile FILE for yours"
        )
    return name


def whole_target(machine: Machine) -> Target | None:
    """This machine's GPUs for profiling, as far as their budgets go; None without any."""
    target = machine.target
    return replace(target, shares=None) if target.cuda else None
