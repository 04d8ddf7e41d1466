"""Budget arithmetic: what must lie on the GPUs, in which order it gives way, and what is left for hot neurons.

Reserved in this order: attention and norms, predictors, the head, the KV cache, scratch, a margin. What does not fit
gives way in this order: the head, then whole layers from the first on, so that the last ones stay, as with
llama.cpp's `-ngl`. Several GPUs hold consecutive layers, divided in proportion to their budgets or to given shares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from powerinfer_cli.errors import UsageError
from powerinfer_cli.placement.plan import MAIN_MEMORY
from powerinfer_cli.placement.sizes import ModelBytes

__all__ = ["Reservation", "budget_bytes", "check_budgets", "parse_budgets", "reserve", "shown_bytes"]

GIB = 1 << 30
MOST_GIB = 1 << 20


@dataclass(frozen=True)
class Reservation:
    """devices: of each layer; output: of the head. left: bytes by GPU for hot neurons of the layers that it holds.

    remarks: what stayed in main memory for want of budget, one line each.
    """

    devices: tuple[int, ...]
    output: int
    left: tuple[int, ...]
    remarks: tuple[str, ...] = ()


def parse_budgets(text: str) -> tuple[int, ...]:
    """Bytes by GPU from what `--vram-budget` says: GiB, separated by commas. Raises UsageError."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--vram-budget has {text[:60]!r}, but must be GiB for each GPU: numbers and commas") from None
    return tuple(map(budget_bytes, numbers))


def budget_bytes(gib: float) -> int:
    """Raises UsageError: negative, infinite or no number."""
    if not 0 <= gib <= MOST_GIB:  # which also refuses NaN
        raise UsageError(f"a budget of {gib:g} GiB makes no sense: it must be a number from 0 to {MOST_GIB}")
    return round(gib * GIB)


def check_budgets(budgets: Sequence[int], cards: Sequence[int]) -> None:
    """`cards`: bytes that each GPU has. Raises UsageError: more budgets than GPUs, or more than a card has."""
    if len(budgets) > len(cards):
        raise UsageError(f"the VRAM budget names {len(budgets)} GPUs, but there are {len(cards)}")
    for gpu, (budget, card) in enumerate(zip(budgets, cards, strict=False)):
        if budget > card:
            raise UsageError(
                f"a budget of {shown_bytes(budget)} is more than GPU {gpu} has ({shown_bytes(card)}): give it less"
            )


def shown_bytes(count: int) -> str:
    """For people: GiB, or MiB where that would be 0.0."""
    return f"{count / GIB:.2f} GiB" if count >= GIB // 16 else f"{count / (1 << 20):.1f} MiB"


def reserve(
    sizes: ModelBytes,
    budgets: Sequence[int],
    *,
    margin: int = 0,
    max_layers: int | None = None,
    shares: Sequence[float] | None = None,
    whole: bool = False,
    start: int = 0,
) -> Reservation:
    """Divide layers and head among the GPUs and main memory.

    budgets: bytes by GPU. margin: bytes of each that stay free. max_layers: at most so many of the last layers go to
    GPUs, and the head only if there are more (`-ngl`). shares: how to divide layers among the GPUs instead of by
    budget (`--tensor-split`); a GPU whose share is 0 is not used. whole: a layer goes to a GPU with all its neurons or
    not at all. start: layers before it stay in main memory, though there be room.
    Raises UsageError: a negative budget or cap, shares that cannot be.
    """
    if min(budgets, default=0) < 0 or (max_layers is not None and max_layers < 0):
        raise UsageError("a budget and a number of layers on the GPU must not be negative")
    weights = budgets if shares is None else _checked_shares(shares, len(budgets))
    rooms = [max(0, b - sizes.on_each - margin) if w else 0 for b, w in zip(budgets, weights, strict=True)]
    last = max((gpu for gpu, room in enumerate(rooms) if room), default=MAIN_MEMORY)
    costs = [layer.fixed + layer.ffn if whole else layer.least for layer in sizes.layers]
    n_layer = len(costs)
    cap = n_layer + 1 if max_layers is None else max_layers
    first = max(0, n_layer - cap, start)
    with_head = [room - sizes.head * (gpu == last) for gpu, room in enumerate(rooms)]
    head_fits = last != MAIN_MEMORY and with_head[last] >= 0 and _starts(costs, with_head)[0] <= first
    output = last if head_fits and cap > n_layer else MAIN_MEMORY
    if output != MAIN_MEMORY:
        rooms = with_head
    begins = max(first, _starts(costs, rooms)[0])
    targets = rooms if shares is None else weights
    cuts = _cuts(costs, [layer.fixed + layer.ffn for layer in sizes.layers], rooms, targets, begins)
    devices = [MAIN_MEMORY] * n_layer
    left = []
    for gpu, (begin, end) in enumerate(pairwise(cuts)):
        devices[begin:end] = [gpu] * (end - begin)
        used = sum(layer.least for layer in sizes.layers[begin:end])
        left.append(rooms[gpu] - used if end > begin else 0)
    remarks = _remarks(budgets, n_layer, range(first, begins), cap > n_layer and output == MAIN_MEMORY)
    return Reservation(tuple(devices), output, tuple(left), remarks)


def _checked_shares(shares: Sequence[float], n_gpu: int) -> Sequence[float]:
    fine = all(math.isfinite(share) and share >= 0 for share in shares)
    if not fine or len(shares) != n_gpu or not sum(shares):
        shown = ",".join(f"{share:g}" for share in shares)
        raise UsageError(f"--tensor-split {shown[:60]} must be {n_gpu} numbers from 0 on, one for each GPU, not all 0")
    return shares


def _starts(costs: Sequence[int], rooms: Sequence[int]) -> list[int]:
    """For each GPU, and past the last: the first layer from which on all fit onto it and those after it."""
    starts = [len(costs)]
    for room in reversed(rooms):
        start, free = starts[-1], room
        while start and costs[start - 1] <= free:
            start -= 1
            free -= costs[start]
        starts.append(start)
    return starts[::-1]


def _cuts(
    costs: Sequence[int], loads: Sequence[int], rooms: Sequence[int], targets: Sequence[float], start: int
) -> list[int]:
    """Where each GPU's layers begin, and the end of the last's: in proportion to `targets`, and so that all fit."""
    starts = _starts(costs, rooms)
    behind = list(accumulate(loads[start:], initial=0))  # of so many layers from `start` on
    cuts, passed, whole = [start], 0.0, sum(targets)
    for gpu, room in enumerate(rooms[:-1]):
        most, free = cuts[-1], room
        while most < len(costs) and costs[most] <= free:
            free -= costs[most]
            most += 1
        passed += targets[gpu]
        wanted = behind[-1] * passed / whole if whole else 0.0
        nearest = start + min(range(len(behind)), key=lambda count: abs(behind[count] - wanted))
        cuts.append(min(most, max(cuts[-1], starts[gpu + 1], nearest)))
    return [*cuts, len(costs)] if rooms else cuts


def _remarks(budgets: Sequence[int], n_layer: int, stayed: range, head: bool) -> tuple[str, ...]:
    if not any(budgets) or not (stayed or head):
        return ()
    budget = " + ".join(shown_bytes(budget) for budget in budgets)
    if len(stayed) == n_layer:
        return (f"the budget of {budget} does not hold one layer: everything stays in main memory",)
    remarks = [f"the output head stays in main memory: the budget of {budget} does not hold it as well"] if head else []
    if stayed:
        names = f"layer {stayed[0]} stays" if len(stayed) == 1 else f"layers {stayed[0]} to {stayed[-1]} stay"
        held = n_layer - stayed[-1] - 1
        remarks.append(f"{names} in main memory: the budget of {budget} holds only the last {held} of {n_layer}")
    return tuple(remarks)
