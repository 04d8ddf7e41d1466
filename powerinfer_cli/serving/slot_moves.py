"""What a slot has read, to a file and from there."""

import asyncio
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import invalid_request, server_error, unavailable
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.slots.slot_files import SavedSlot
from powerinfer_cli.serving.tasks import SlotAction, SlotDone, SlotTask

__all__ = ["do_slot_task", "restore_slot", "save_slot"]


async def do_slot_task(task: SlotTask, service: Service) -> SlotDone:
    """Raises APIError."""
    async with service.open([task]) as reply:
        async for _, event in reply:
            if isinstance(event, SlotDone):
                return event
    raise unavailable("the server is stopping")


async def save_slot(number: int, path: Path, service: Service) -> dict[str, int]:
    """Tokens and bytes, as llama-server tells them. Raises APIError."""
    async with service.slot_files[number]:  # one at a time: each holds a copy of what the slot has read
        done = await do_slot_task(SlotTask(SlotAction.SAVE, number), service)
        assert done.content is not None  # saving tells it
        try:
            n_bytes = await asyncio.to_thread(service.thread.files.write, path, done.content)
        except PowerInferError as error:
            raise server_error(f"Unable to save slot: {error}") from error
    return {"n_saved": done.n_tokens, "n_written": n_bytes}


async def restore_slot(number: int, path: Path, service: Service) -> dict[str, int]:
    """Tokens and bytes, as llama-server tells them. Raises APIError: no such file, or not one of this model's."""
    async with service.slot_files[number]:
        try:
            saved: SavedSlot = await asyncio.to_thread(service.thread.files.read, path)
        except PowerInferError as error:
            raise invalid_request(f"Unable to restore slot: {error}") from error
        done = await do_slot_task(SlotTask(SlotAction.RESTORE, number, saved), service)
    return {"n_restored": done.n_tokens, "n_read": saved.n_bytes}
