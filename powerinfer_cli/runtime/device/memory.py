"""How much of a GPU torch may take; what a device is called, and has."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import shown_bytes

__all__ = ["device_memory", "device_name", "is_full", "is_unified", "keep_budget", "lift_budget", "told_when_full"]


def device_name(device: torch.device) -> str:
    """A card's own; of others, torch's for the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def device_memory(device: torch.device) -> int:
    """Bytes; on an Apple GPU as many as the system lets it have of main memory. 0: the CPU, which rehearses."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def is_unified(device: torch.device) -> bool:
    """Whether a GPU has no memory of its own: Apple's, Jetsons, others that are part of the CPU's chip."""
    if device.type == "cuda":
        return bool(torch.cuda.get_device_properties(device).is_integrated)
    return device.type == "mps"


def keep_budget(device: torch.device, budget: int) -> None:
    """From now on torch takes no more of a GPU than so many bytes: it frees what it has kept, or says there is none."""
    if device.type == "cuda":
        _little_rounding()
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / device_memory(device)), device)
    elif device.type == "mps":
        torch.mps.set_per_process_memory_fraction(min(1.0, budget / device_memory(device)))


def lift_budget(device: torch.device) -> None:
    """Torch may take all of a GPU again; what nobody uses is given back first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    elif device.type == "mps":
        torch.mps.empty_cache()
        torch.mps.set_per_process_memory_fraction(1.0)


def is_full(error: BaseException) -> bool:
    """Whether it says that a device's memory is used up."""
    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith("MPS backend out of memory")


@contextmanager
def told_when_full(device: torch.device, budget: int) -> Iterator[None]:
    """Raises PowerInferError where torch says that a GPU's memory, or the budget, is used up."""
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        raise PowerInferError(
            f"{device}: {shown_bytes(budget)} do not hold what the plan puts there: "
            "give another --vram-budget, or a smaller -c or -ub"
        ) from error


def _little_rounding() -> None:
    """Segments that grow in small steps: torch's fixed ones leave up to a tenth of a budget unused."""
    with suppress(RuntimeError, AttributeError):  # a torch that does not know the setting
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
