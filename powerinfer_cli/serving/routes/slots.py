"""What each slot does, and saving what it has read."""

import math
import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StrictStr
from starlette.responses import Response

from powerinfer_cli.serving.answers.settings import sampler_body
from powerinfer_cli.serving.errors import invalid_request, not_supported, unavailable
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.replies import while_connected
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.slot_moves import do_slot_task, restore_slot, save_slot
from powerinfer_cli.serving.slots.slot import SlotView
from powerinfer_cli.serving.tasks import CompletionTask, SlotAction, SlotTask
from powerinfer_cli.system.files import takes_name

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
            {"id_slot": number, "n_erased": (await do_slot_task(SlotTask(SlotAction.ERASE, number), service)).n_tokens}
        )
    if body is None or body.filename is None:
        raise invalid_request('"filename" is missing')
    path = folder / _checked(body.filename)
    began = time.perf_counter()
    move = save_slot if action == SlotAction.SAVE else restore_slot
    told = await while_connected(request.receive, move(number, path, service))
    ms = 1e3 * (time.perf_counter() - began)
    return Answer({"id_slot": number, "filename": path.name, **told, "timings": {f"{action}_ms": ms}})


def _checked(filename: str) -> str:
    """A plain name of a file that is not hidden, in the folder itself."""
    good = filename.isprintable() and not RESERVED & set(filename) and filename == filename.strip()
    good = good and filename[:1] not in ("", ".") and takes_name(filename)
    if not good or len(filename.encode("utf-8", "replace")) > 200:
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
