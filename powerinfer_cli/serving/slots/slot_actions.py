"""Saving, restoring and erasing what a slot has read."""

from typing import assert_never

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.tasks import SlotAction, SlotContent, SlotDone, SlotTask

__all__ = ["do_slot_task"]


def do_slot_task(engine: EngineLike, task: SlotTask) -> SlotDone:
    """Raises APIError: what is to be restored does not fit, and nothing has changed. No file is touched."""
    slot = task.id_slot
    match task.action:
        case SlotAction.SAVE:
            ids = tuple(engine.tokens_of(slot))
            return SlotDone(slot, len(ids), SlotContent(ids, engine.save(slot)))
        case SlotAction.RESTORE:
            try:
                engine.restore(slot, task.content.ids, task.content.arrays)
            except PowerInferError as error:
                raise invalid_request(f"Unable to restore slot: {error}") from error
            return SlotDone(slot, len(engine.tokens_of(slot)))
        case SlotAction.ERASE:
            held = len(engine.tokens_of(slot))
            engine.truncate(0, slot)
            return SlotDone(slot, held)
    assert_never(task.action)
