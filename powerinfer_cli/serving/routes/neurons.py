"""What the web page shows of the engine: per layer its hot and cold neurons, and how many were active."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.bodies import Answer
from powerinfer_cli.serving.errors import not_supported

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/internal/neurons")
async def neurons(request: Request) -> Response:
    """{"layers": [{"index", "neurons", "hot", "active"}], "sparse", "devices"}: neurons of each layer, those of them
    in a GPU's memory, and the share that was active per token, null where no token was computed yet.
    """
    tell = getattr(request.app.state.service.thread, "neurons", None)
    if tell is None:
        raise not_supported("This engine does not tell of its neurons")
    return Answer(tell())
