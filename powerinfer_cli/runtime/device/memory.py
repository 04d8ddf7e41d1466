"""How much of a GPU torch may take."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import shown_bytes

__all__ = ["keep_budget", "lift_budget", "told_when_full"]


def keep_budget(device: torch.device, budget: int) -> None:
    """From now on torch takes no more of a GPU than so many bytes: it frees what it has kept, or says there is none."""
    if device.type == "cuda":
        _little_rounding()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)


def lift_budget(device: torch.device) -> None:
    """Torch may take all of a GPU again; what nobody uses is given back first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextmanager
def told_when_full(device: torch.device, budget: int) -> Iterator[None]:
    """Raises PowerInferError where torch says that a GPU's memory, or the budget, is used up."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PowerInferError(
            f"{device}: {shown_bytes(budget)} do not hold what the plan puts there: "
            "give another --vram-budget, or a smaller -c or -ub"
        ) from error


def _little_rounding() -> None:
    """Segments that grow in small steps: torch's fixed ones leave up to a tenth of a budget unused."""
    with suppress(RuntimeError, AttributeError):  # a torch that does not know the setting
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
