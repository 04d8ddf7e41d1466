"""Saving, restoring and erasing what a slot has read."""

import hashlib
import time
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import invalid_request, server_error
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.slots.slot_files import read_slot, write_slot
from powerinfer_cli.serving.tasks import SlotAction, SlotDone, SlotTask

__all__ = ["config_fingerprint", "do_slot_task"]


def config_fingerprint(engine: EngineLike) -> str:
    """Tells models of different shapes apart, where nothing better is known."""
    return hashlib.blake2b(repr(engine.config).encode(), digest_size=16).hexdigest()


def do_slot_task(engine: EngineLike, task: SlotTask, model: str) -> SlotDone:
    """model: its fingerprint. Raises APIError; after a failed restore the slot is empty."""
    began = time.perf_counter()
    n_bytes = 0
    n_tokens = len(engine.tokens_of(task.id_slot))
    if task.action is SlotAction.ERASE:
        engine.truncate(0, task.id_slot)
    elif task.action is SlotAction.SAVE:
        n_bytes = _save(engine, task, model)
    else:
        n_bytes = _restore(engine, task, model)
        n_tokens = len(engine.tokens_of(task.id_slot))
    return SlotDone(task.id_slot, n_tokens, n_bytes, 1e3 * (time.perf_counter() - began))


def _save(engine: EngineLike, task: SlotTask, model: str) -> int:
    try:
        return write_slot(Path(task.path), model, engine.tokens_of(task.id_slot), engine.save(task.id_slot))
    except PowerInferError as error:
        raise server_error(f"Unable to save slot: {error}") from error


def _restore(engine: EngineLike, task: SlotTask, model: str) -> int:
    engine.truncate(0, task.id_slot)
    try:
        saved = read_slot(Path(task.path), model, engine.n_ctx_sequence, engine.config.n_vocab)
        engine.restore(task.id_slot, saved.ids, saved.arrays)
    except PowerInferError as error:
        engine.truncate(0, task.id_slot)
        raise invalid_request(f"Unable to restore slot: {error}") from error
    return saved.n_bytes
