"""--strict-model: requests that name another model than the one that is served are refused."""

from fastapi import Request

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.service import Service

__all__ = ["check_model"]

LONGEST = 100  # characters of a name that are repeated


async def check_model(request: Request) -> None:
    """Before a handler. Raises APIError 400. A body that is not JSON is for the handler to tell of."""
    service: Service = request.app.state.service
    if not service.options.strict_model or request.method != "POST":
        return
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return
    name = body.get("model") if isinstance(body, dict) else None
    if name is None or name in service.model.names:
        return
    known = ", ".join(service.model.names)
    raise invalid_request(f"Field 'model': {str(name)[:LONGEST]!r} is not served here, but {known}")
