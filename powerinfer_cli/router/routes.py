"""What the router answers itself, and where everything else goes."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from powerinfer_cli.json_text import read_json
from powerinfer_cli.router.forwarding import forward
from powerinfer_cli.router.models import Models
from powerinfer_cli.router.pool import State
from powerinfer_cli.serving.answers import SYSTEM_FINGERPRINT
from powerinfer_cli.serving.errors import invalid_request, not_supported
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.joined_metrics import joined
from powerinfer_cli.serving.http.json_text import load_json
from powerinfer_cli.serving.threads import in_thread

__all__ = ["router"]

router = APIRouter()

AT_ONCE = 1 << 16  # bytes of JSON that are read in the event loop


@router.get("/health")
@router.get("/v1/health")
async def health() -> Response:
    """The router is there, whatever its models do."""
    return Answer({"status": "ok"})


@router.get("/v1/models")
@router.get("/models")
async def models(request: Request, reload: str = "") -> Response:
    """All that can be asked for, loaded or not; reload: after looking for them anew."""
    found: Models = request.app.state.models
    if reload not in ("", "0", "false"):
        await found.reload()
    return Answer({"object": "list", "data": await found.listed()})


@router.post("/models/load")
async def load(request: Request) -> Response:
    """Begin to load; /v1/models and /models/sse tell how it goes."""
    found: Models = request.app.state.models
    entry = found.entry((await _fields(request)).get("model"))
    if found.pool.instance(entry).state is not State.UNLOADED:
        raise invalid_request("model is already running")
    await found.pool.load(entry)
    return Answer({"success": True})


@router.post("/models/unload")
async def unload(request: Request) -> Response:
    """Stop a model's process, or its waiting for one. What it is answering ends with an error."""
    found: Models = request.app.state.models
    one = found.pool.instance(found.entry((await _fields(request)).get("model")))
    if one.process is None and not one.waiting:
        raise invalid_request("model is not running")
    await found.pool.unload(one)
    return Answer({"success": True})


@router.get("/models/sse")
async def events(request: Request) -> Response:
    """What happens to models, as it happens."""
    found: Models = request.app.state.models
    return StreamingResponse(
        found.events.listen(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


@router.post("/models")
@router.delete("/models")
async def change() -> Response:
    """llama-server's, which fetches and deletes files for whoever asks."""
    raise not_supported("This router neither fetches nor deletes models: `powerinfer download` and `powerinfer rm` do")


@router.get("/props")
async def props(request: Request, model: str = "") -> Response:
    """Of a model, or of the router."""
    if model:
        return await _to_model(request, b"", model)
    found: Models = request.app.state.models
    options = found.options
    return Answer(
        {
            "role": "router",
            "max_instances": options.room.most,
            "models_autoload": options.autoload,
            "model_alias": "powerinfer",
            "model_path": "none",
            "default_generation_settings": {"params": {}, "n_ctx": 0},
            "ui": options.door.ui,
            "ui_settings": {},
            "build_info": SYSTEM_FINGERPRINT,
            "cors_proxy_enabled": False,
        }
    )


@router.get("/metrics")
async def metrics(request: Request, model: str = "") -> Response:
    """Of a model; or of all that are loaded, each line with its model's name."""
    found: Models = request.app.state.models
    if not found.options.door.metrics:
        raise not_supported("This server does not support metrics endpoint. Start it with `--metrics`")
    if model:
        return await _to_model(request, b"", model)
    return Response(joined(await found.metrics()), media_type="text/plain; version=0.0.4")


@router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
async def elsewhere(request: Request) -> Response:
    """A model's: of a body's `model`, or the address's."""
    name: Any = request.query_params.get("model")
    body, fields = b"", {}
    if request.method != "GET":
        body = await request.body()
        fields = await _fields(request)
        name = fields.get("model", name)
    return await _to_model(request, body, name, events=fields.get("stream") is True)


async def _to_model(request: Request, body: bytes, name: object, *, events: bool = False) -> Response:
    found: Models = request.app.state.models
    entry = found.entry(name)
    asked = request.query_params.get("autoload")
    found.check_loaded(entry, None if asked is None else asked in ("1", "true"))
    return await forward(request, body, entry, found.pool, events=events, delay_s=found.options.delay_s)


async def _fields(request: Request) -> dict[str, Any]:
    """Of a JSON object. Raises APIError."""
    body = await request.body()
    if not body:
        return {}
    try:
        text = body.decode("utf-8-sig", "surrogatepass")
        value = read_json(text) if len(body) <= AT_ONCE else await in_thread(load_json, body)
    except (ValueError, RecursionError) as error:
        raise invalid_request("the body is not JSON") from error
    return value if isinstance(value, dict) else {}
