"""Saving, restoring and erasing what a slot has read."""

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.tasks import SlotAction, SlotContent, SlotDone, SlotTask

__all__ = ["do_slot_task"]


def do_slot_task(engine: EngineLike, task: SlotTask) -> SlotDone:
    """Raises APIError: what is to be restored does not fit, and nothing has changed. No file is touched."""
    slot = task.id_slot
    if task.action is SlotAction.RESTORE:
        try:
            engine.restore(slot, task.content.ids, task.content.arrays)
        except PowerInferError as error:
            raise invalid_request(f"Unable to restore slot: {error}") from error
    done = SlotDone(slot, len(engine.tokens_of(slot)))
    if task.action is SlotAction.ERASE:
        engine.truncate(0, slot)
    elif task.action is SlotAction.SAVE:
        return SlotDone(slot, done.n_tokens, SlotContent(tuple(engine.tokens_of(slot)), engine.save(slot)))
    return done
