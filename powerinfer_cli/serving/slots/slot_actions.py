"""What becomes of what a slot has read: it is saved, restored, erased, or pooled."""

from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.slots.slot import Running
from powerinfer_cli.serving.tasks import EmbeddingTask, SlotAction, SlotContent, SlotDone, SlotTask

__all__ = ["do_slot_task", "pooled"]


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


def pooled(engine: EngineLike, running: Running) -> npt.NDArray[np.floating[Any]]:
    """A text's vector, or all of its tokens', or its scores: [n, ...]"""
    found = running.pool.result
    ranks = isinstance(running.task, EmbeddingTask) and running.task.pooling == "rank"
    return engine.scorer.scores(found[0])[None] if ranks else found
