"""What each slot does, and saving what it has read."""

import asyncio
import math
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StrictStr
from starlette.responses import Response

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.answers.settings import sampler_body
from powerinfer_cli.serving.errors import invalid_request, not_supported, server_error, unavailable
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.replies import while_connected
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.slots.slot import SlotView
from powerinfer_cli.serving.slots.slot_files import SavedSlot
from powerinfer_cli.serving.tasks import CompletionTask, SlotAction, SlotDone, SlotTask

__all__ = ["router"]

router = APIRouter(tags=["slots"])

RESERVED = frozenset('/\\:*?"<>|')
RANDOM_SEED = 2**32 - 1


class SlotFile(BaseModel):
    """For save and restore, which need it."""

    model_config = ConfigDict(title="SlotFile")

    filename: StrictStr | None = None


@router.get("/slots")
async def slots(request: Request, fail_on_no_slot: str = "") -> Response:
    """All slots; fail_on_no_slot: 503 where all are busy."""
    service: Service = request.app.state.service
    if not service.options.slots:
        raise not_supported("This server does not support slots endpoint. Start it with `--slots`")
    views: list[SlotView] = service.thread.slots()
    if fail_on_no_slot and all(view.is_processing for view in views):
        raise unavailable("no slot available")
    return Answer([_shown(view, service.options.spec_type != "none") for view in views])


@router.post("/slots/{id_slot}")
async def act(request: Request, id_slot: str, action: str = "", body: SlotFile | None = None) -> Response:
    """Save what a slot has read to a file in --slot-save-path, restore it from there, or forget it."""
    service: Service = request.app.state.service
    folder = service.options.slot_save_path
    if folder is None:
        raise not_supported("This server does not support slots action. Start it with `--slot-save-path`")
    if not (id_slot.isascii() and id_slot.isdigit() and len(id_slot) < 10):
        raise invalid_request("Invalid slot ID")
    if action not in list(SlotAction):
        raise invalid_request("Invalid action")
    number = int(id_slot)
    if number >= service.model.n_slots:
        raise invalid_request("Invalid slot ID")
    if action == SlotAction.ERASE:
        return Answer(
            {"id_slot": number, "n_erased": (await _do(SlotTask(SlotAction.ERASE, number), service)).n_tokens}
        )
    if body is None or body.filename is None:
        raise invalid_request('"filename" is missing')
    path = folder / _checked(body.filename)
    began = time.perf_counter()
    move = _save if action == SlotAction.SAVE else _restore
    told = await while_connected(request.receive, move(number, path, service))
    ms = 1e3 * (time.perf_counter() - began)
    return Answer({"id_slot": number, "filename": path.name, **told, "timings": {f"{action}_ms": ms}})


async def _do(task: SlotTask, service: Service) -> SlotDone:
    async with service.open([task]) as reply:
        async for _, event in reply:
            if isinstance(event, SlotDone):
                return event
    raise unavailable("the server is stopping")


async def _save(number: int, path: Path, service: Service) -> dict[str, int]:
    async with service.slot_files[number]:  # one at a time: each holds a copy of what the slot has read
        done = await _do(SlotTask(SlotAction.SAVE, number), service)
        assert done.content is not None  # saving tells it
        try:
            n_bytes = await asyncio.to_thread(service.thread.files.write, path, done.content)
        except PowerInferError as error:
            raise server_error(f"Unable to save slot: {error}") from error
    return {"n_saved": done.n_tokens, "n_written": n_bytes}


async def _restore(number: int, path: Path, service: Service) -> dict[str, int]:
    async with service.slot_files[number]:
        try:
            saved: SavedSlot = await asyncio.to_thread(service.thread.files.read, path)
        except PowerInferError as error:
            raise invalid_request(f"Unable to restore slot: {error}") from error
        done = await _do(SlotTask(SlotAction.RESTORE, number, saved), service)
    return {"n_restored": done.n_tokens, "n_read": saved.n_bytes}


def _checked(filename: str) -> str:
    """A plain name of a file that is not hidden, in the folder itself."""
    good = filename.isprintable() and not RESERVED & set(filename) and filename == filename.strip()
    if not good or not filename or filename[0] == "." or len(filename.encode("utf-8", "replace")) > 200:
        raise invalid_request("Invalid filename")
    return filename


def _shown(view: SlotView, drafting: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": view.id,
        "n_ctx": view.n_ctx,
        "speculative": drafting,
        "is_processing": view.is_processing,
    }
    if view.task is None:
        return shown
    return {
        **shown,
        "id_task": view.id_task,
        "n_prompt_tokens": view.n_tokens,
        "n_prompt_tokens_processed": view.n_prompt_processed,
        "n_prompt_tokens_cache": view.n_prompt_cached,
        "params": _params(view.task) if isinstance(view.task, CompletionTask) else {},
        "next_token": [
            {
                "has_next_token": view.has_next_token,
                "has_new_line": view.has_new_line,
                "n_remain": view.n_remain,
                "n_decoded": view.n_decoded,
            }
        ],
    }


def _params(task: CompletionTask) -> dict[str, Any]:
    """No text of the client's: neither stop strings nor grammars."""
    seed = task.sampler.seed
    body = sampler_body(task.sampler, seed if seed >= 0 else RANDOM_SEED)
    body.pop("dry_sequence_breakers", None)
    return {
        **{name: value for name, value in body.items() if not isinstance(value, float) or math.isfinite(value)},
        "max_tokens": task.n_predict,
        "n_predict": task.n_predict,
        "n_keep": task.n_keep,
        "n_discard": task.n_discard,
        "n_probs": task.n_probs,
        "post_sampling_probs": task.post_sampling_probs,
    }
