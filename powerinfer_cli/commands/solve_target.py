"""For which machine `powerinfer solve` plans: this one, one of a device profile, or one that stands for a GPU."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from powerinfer_cli.commands.gpus import LEAST_SPARE, SPARE, Target, find_target
from powerinfer_cli.commands.placement_flags import DeviceFlag, parse_shares
from powerinfer_cli.commands.plan_files import GIVEN
from powerinfer_cli.commands.plan_job import STAND_IN
from powerinfer_cli.commands.solve_flags import PlanFlags
from powerinfer_cli.placement import parse_budgets
from solver.device_profile import DeviceProfile, load_profile

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
    """Raises PowerInferError: no such profile; UsageError: budgets or shares that cannot be."""
    here = flags.device is not DeviceFlag.CPU and torch.cuda.is_available()
    if flags.device_profile is None and here:
        target = find_target(flags.placement(), note)
        assert target is not None  # there is a GPU
        return Machine(target)
    shares = None if flags.tensor_split is None else parse_shares(flags.tensor_split)
    if flags.device_profile is None and flags.vram_budget is None:
        if flags.gpu_layers or shares or flags.main_gpu:
            note("no GPU is used: -ngl, -mg and -ts need --vram-budget, or --device-profile, to plan for one")
        return Machine(Target((), ()))
    name = flags.device_profile or STAND_IN
    profile = load_profile(name)
    if flags.device_profile is None:
        note(f"no CUDA GPU: planned for {profile.gpus[0].name}, by its data sheet (--device-profile takes another)")
    cards = [gpu.memory or 1 << 62 for gpu in profile.gpus]
    if flags.vram_budget is not None:
        limits = cards if flags.device_profile else None  # a GPU that only stands for one has no size
        budgets = parse_budgets(flags.vram_budget, limits)
    else:
        budgets = tuple(max(0, gpu.memory - max(LEAST_SPARE, int(SPARE * gpu.memory))) for gpu in profile.gpus)
    return Machine(Target(("cpu",) * len(budgets), budgets, shares), profile, GIVEN + name)


def whole_target(machine: Machine) -> Target | None:
    """This machine's GPUs for profiling, as far as their budgets go; None without any."""
    target = machine.target
    return replace(target, shares=None) if target.devices and not target.rehearsed else None
