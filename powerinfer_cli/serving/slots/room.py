"""Room in the KV cache for the next step: contexts that are full shift, and what nobody needs goes."""

from collections.abc import Callable, Sequence

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.slots.scheduler import Clearing, Held, plan_clearing, plan_shift
from powerinfer_cli.serving.slots.slot import Slot
from powerinfer_cli.serving.tasks import CompletionTask

__all__ = ["EXHAUSTED", "clear_room", "is_tight", "shift_slot"]

EXHAUSTED = "Context size has been exceeded."  # llama-server's words, which clients look for


def shift_slot(engine: EngineLike, slot: Slot, *, add_bos: bool) -> None:
    """Where a slot generates and its context is full but for one token, as llama-server has it: drop some of them.

    Raises PowerInferError: what the task keeps leaves nothing to drop.
    """
    running = slot.running
    if running is None or running.n_left or slot.n_tokens + 1 < slot.n_ctx:
        return
    task, written = running.task, running.generation
    if not isinstance(task, CompletionTask) or written is None:
        return
    kept = (len(task.prompt) if task.n_keep < 0 else task.n_keep) + int(add_bos)
    n_keep, n_gone = plan_shift(slot.n_tokens, slot.n_ctx, kept, max(0, task.n_discard))
    if n_gone == 0:
        raise PowerInferError(EXHAUSTED)
    engine.shift(n_keep, n_gone, slot.id)
    slot.n_tokens -= n_gone
    written.truncated = True


def clear_room(engine: EngineLike, slots: Sequence[Slot], leave: Callable[[int], None]) -> tuple[int, ...]:
    """Where all slots share the cache: clear what `plan_clearing` says. The slots whose tasks have to end for it.

    leave: told of idle slots whose texts are about to go.
    """
    clearing = _clearing(engine, slots)
    for i in clearing.idle:
        leave(i)
    for i in (*clearing.idle, *clearing.rewound):
        engine.truncate(0, i)
        slots[i].n_tokens = 0
        running = slots[i].running
        if running is not None:
            running.rewind()
    return clearing.ended


def is_tight(engine: EngineLike, slots: Sequence[Slot]) -> bool:
    """Whether `clear_room` would clear anything."""
    return _clearing(engine, slots) != Clearing()


def _clearing(engine: EngineLike, slots: Sequence[Slot]) -> Clearing:
    idle = [Held(slot.id, slot.n_tokens, slot.last_used) for slot in slots if slot.running is None]
    busy = [(slot, slot.running) for slot in slots if slot.running is not None]
    reading = [Held(slot.id, slot.n_tokens, one.order, one.n_left) for slot, one in busy if one.n_left]
    generating = [Held(slot.id, slot.n_tokens, one.order) for slot, one in busy if not one.n_left]
    return plan_clearing(engine.n_free, idle, reading, generating)
