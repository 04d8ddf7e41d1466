"""What the web page shows of the engine: per layer its hot and cold neurons, and how many were active."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.service import Service

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/internal/neurons")
async def neurons(request: Request) -> Response:
    """{"layers": [{"index", "neurons", "hot", "active", "experts"}], "sparse", "devices", "uploads", "moved_bytes"}:
    neurons of each layer, those of them on GPUs, and the mean share that was active for a token, null where nothing
    sparse has run. experts, null where there are none: {"n_experts", "hot": those on GPUs now, "chosen": by the last
    token, "hit_rate"}. "sparse": whether any of it is worth showing.
    """
    service: Service = request.app.state.service
    if service.state == "sleeping":
        return Answer({"layers": [], "sparse": False, "devices": [], "uploads": 0, "moved_bytes": 0})
    return Answer(service.thread.neurons())
