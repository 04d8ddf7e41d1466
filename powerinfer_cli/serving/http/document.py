"""/openapi.json: what FastAPI knows of the routes, and the errors that they really answer."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

__all__ = ["RESPONSES", "ErrorBody", "describe"]


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: int = Field(description="The status code once more.")
    message: str
    type: str = Field(description='As "invalid_request_error".')


class ErrorBody(BaseModel):
    """Every answer but a good one."""

    error: ErrorDetail


_MEANINGS = {
    400: "The request is wrong; the message names the field.",
    401: "No API key, or a wrong one.",
    404: "There is no such thing.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    500: "The server is at fault.",
    501: "The server was not started for this.",
    503: "The model loads, or too many requests wait.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": meaning} for status, meaning in _MEANINGS.items()
}


def describe(app: FastAPI) -> None:
    """Have /openapi.json leave out what FastAPI takes for granted: validation fails with 400 here, not with 422."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            for path in made["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                made.get("components", {}).get("schemas", {}).pop(name, None)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to change the document
