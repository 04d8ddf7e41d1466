"""Which GPUs a model may use, and how much of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerinfer_cli.errors import UsageError
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import check_budgets, shown_bytes
from powerinfer_cli.system.drivers import has_gpu_driver
from powerinfer_cli.system.memory import available_memory
from powerinfer_cli.system.which import MACOS

__all__ = ["UNIFIED", "Target", "find_target"]

Note = Callable[[str], None]

UNIFIED = "unified memory: the GPU reads what the CPU reads, so a budget buys no bandwidth, and they read in turns"
LEAST_SPARE = 256 << 20  # bytes that a default budget leaves to others
SPARE = 0.04  # of what is free


@dataclass(frozen=True)
class Target:
    """devices: as torch names them, none for the CPU alone. budgets: bytes of each; None where as much may be used as
    the model needs, on the CPU that rehearses. free: the budgets are what happened to be free. unified: a GPU has no
    memory of its own.
    """

    devices: tuple[str, ...]
    budgets: tuple[int, ...] | None
    shares: tuple[float, ...] | None = None
    free: bool = False
    unified: bool = False

    @property
    def rehearsed(self) -> bool:
        return "cpu" in self.devices

    @property
    def cuda(self) -> bool:
        return any(device.startswith("cuda") for device in self.devices)


def find_target(wishes: PlacementWishes, note: Note) -> Target | None:
    """None: everything runs on the CPU; a line says so to those who asked for a GPU that is not there.

    Raises:
        UsageError: budgets, shares or a GPU that cannot be.
    """
    if wishes.device == "cpu":
        return _rehearsal(wishes, note)
    if wishes.device == "mps":
        target = _on_mps(wishes, note)
    else:
        count = _count_gpus()
        target = _on_cuda(wishes, count, note) if count else None
    if target is None and wishes.given:
        none = "no Apple GPU (mps)" if wishes.device == "mps" else "no CUDA GPU"
        hint = " (--device mps takes the Mac's GPU)" if MACOS and wishes.device is None else ""
        has = "has" if len(wishes.given) == 1 else "have"
        note(f"{none}: {' and '.join(wishes.given)} {has} no effect, everything runs on the CPU{hint}")
    if target is not None and target.unified:
        note(UNIFIED)
    return target


def _count_gpus() -> int:
    """Those that torch can use. It is loaded only where the system has a GPU at all."""
    if not has_gpu_driver():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _rehearsal(wishes: PlacementWishes, note: Note) -> Target | None:
    if wishes.vram_budget is None and wishes.gpu_layers is None:
        if wishes.given:
            note(
                f"{' and '.join(wishes.given)}: no effect with --device cpu alone; "
                "add --vram-budget or -ngl to rehearse"
            )
        return None
    count = len(wishes.vram_budget or wishes.tensor_split or (0,))
    note("the GPU's part is rehearsed on the CPU: slow, and only good for trying plans out")
    return Target(("cpu",) * count, wishes.vram_budget, wishes.tensor_split)


def _on_mps(wishes: PlacementWishes, note: Note) -> Target | None:
    """The only GPU of a Mac; None on others."""
    import torch

    if not torch.backends.mps.is_available():
        return None
    if wishes.main_gpu:
        raise UsageError(f"-mg {wishes.main_gpu}: there is one GPU, counted from 0")
    if wishes.tensor_split is not None and len(wishes.tensor_split) > 1:
        raise UsageError(f"-ts names {len(wishes.tensor_split)} GPUs, but there is one")
    most, given = torch.mps.recommended_max_memory(), wishes.vram_budget
    free = max(0, most - torch.mps.driver_allocated_memory())
    left = available_memory()
    free = free if left is None else min(free, left)
    if given is None:
        return Target(("mps",), (_less_spare(free),), free=True, unified=True)
    check_budgets(given, [most])
    if given[0] > free:
        note(f"warning: other programs leave {shown_bytes(free)} of main memory, less than the GPU's budget")
    return Target(("mps",), given, unified=True)


def _on_cuda(wishes: PlacementWishes, count: int, note: Note) -> Target:
    import torch

    first = wishes.main_gpu or 0
    if first >= count:
        raise UsageError(f"-mg {first}: there are {count} GPUs, counted from 0")
    order = [first, *(gpu for gpu in range(count) if gpu != first)]
    cards = [torch.cuda.get_device_properties(gpu).total_memory for gpu in order]
    shares, budgets = wishes.tensor_split, wishes.vram_budget
    given = budgets is not None
    if budgets is not None:
        check_budgets(budgets, cards)
        order = order[: len(budgets)]
        _warn_of_others(order, budgets, note)
    else:
        number = len(shares) if shares is not None else 1 if wishes.main_gpu is not None else count
        if number > count:
            raise UsageError(f"-ts names {number} GPUs, but there are {count}")
        order = order[:number]
        budgets = tuple(_free(gpu) for gpu in order)
    unified = any(torch.cuda.get_device_properties(gpu).is_integrated for gpu in order)
    return Target(tuple(f"cuda:{gpu}" for gpu in order), budgets, shares, free=not given, unified=unified)


def _warn_of_others(order: Sequence[int], budgets: Sequence[int], note: Note) -> None:
    import torch

    for gpu, budget in zip(order, budgets, strict=True):
        free, _ = torch.cuda.mem_get_info(gpu)
        if budget > free:
            note(f"warning: other programs leave {shown_bytes(free)} of GPU {gpu}, less than its budget")


def _free(gpu: int) -> int:
    import torch

    free, _ = torch.cuda.mem_get_info(gpu)
    return _less_spare(free)


def _less_spare(free: int) -> int:
    return max(0, free - max(LEAST_SPARE, int(SPARE * free)))
