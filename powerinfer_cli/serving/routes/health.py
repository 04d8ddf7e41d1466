"""Whether requests are served. While the model loads nothing is, and `Gate` answers for all routes."""

from fastapi import APIRouter
from starlette.responses import Response

from powerinfer_cli.serving.http.bodies import Answer

__all__ = ["router"]

router = APIRouter(tags=["server"])


@router.get("/health")
@router.get("/v1/health", include_in_schema=False)
async def health() -> Response:
    """Answers 503 while the model loads. Needs no key."""
    return Answer({"status": "ok"})
