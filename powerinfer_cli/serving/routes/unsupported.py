"""What llama-server has routes for and this server has nothing to serve with: adapters."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from starlette.responses import Response

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.http.bodies import Answer

__all__ = ["router"]

router = APIRouter(tags=["server"])


@router.get("/lora-adapters")
async def lora_adapters() -> Response:
    """The adapters that are loaded: none."""
    return Answer([])


@router.post("/lora-adapters")
async def set_lora_adapters(body: Annotated[Any, Body()]) -> Response:
    """Scales of adapters by their ids; there are none, so an empty list is all that can be done."""
    if not isinstance(body, list):
        raise invalid_request("Request body must be an array")
    if body:
        raise invalid_request("There is no such LoRA adapter: none is loaded")
    return Answer({"success": True})
