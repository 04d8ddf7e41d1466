"""Text for a gap, as editors ask for it."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.prompts import is_costly
from powerinfer_cli.serving.routes.completion import answer_natively
from powerinfer_cli.serving.schemas.completion import prepare
from powerinfer_cli.serving.schemas.infill import InfillRequest, check_infill, infill_prompt
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.threads import in_thread

__all__ = ["router"]

router = APIRouter(tags=["completion"], route_class=TextRoute)


@router.post("/infill")
async def infill(body: InfillRequest, request: Request) -> Response:
    """Write what stands between two texts; for models that were trained to."""
    service: Service = request.app.state.service
    check_infill(service.model.tokenizer)
    texts: list[Any] = [
        body.input_prefix,
        body.input_suffix,
        [[chunk.text, chunk.filename] for chunk in body.input_extra],
        body.prompt,
    ]
    if is_costly(texts):
        prompt = await in_thread(_prompt, body, service)
    else:
        prompt = _prompt(body, service)
    job = await prepare(body, prompt, request.app.state.service, label="infill")
    return await answer_natively(request, body, job)


def _prompt(body: InfillRequest, service: Service) -> list[int]:
    model, options = service.model, service.options
    return infill_prompt(
        body, model.tokenizer, n_ctx=model.n_ctx_slot, n_batch=options.n_batch, n_predict=options.n_predict
    )
