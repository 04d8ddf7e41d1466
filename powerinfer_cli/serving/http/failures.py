"""Everything that can go wrong in a handler, as llama-server's error bodies."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import APIError, invalid_request, not_found, server_error
from powerinfer_cli.serving.http.bodies import error_answer

__all__ = ["handle_failures", "validation_message"]

# What pydantic calls the types of a field that has several: "str", "list[int]", "TextPart", "function-after[...]".
TYPE = re.compile(
    r"str|int|float|bool|none|dict|list|any|[A-Z]\w*|.*\[.*\]|(constrained|function|lax|json)-.*", re.DOTALL
)


def handle_failures(app: FastAPI) -> None:
    """Have the app answer them."""
    app.add_exception_handler(APIError, _api_error)
    app.add_exception_handler(PowerInferError, _user_error)
    app.add_exception_handler(RequestValidationError, _wrong_fields)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error_answer(error)


async def _user_error(request: Request, error: Exception) -> Response:
    """Of the layers below, which speak of what they were given."""
    return error_answer(invalid_request(str(error)))


async def _wrong_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_answer(invalid_request(validation_message(error.errors())))


async def _http(request: Request, error: Exception) -> Response:
    """Starlette's own. No such method is no such route, as llama-server has it."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return error_answer(not_found())
    if error.status_code == 400:
        return error_answer(invalid_request("the body is not JSON"))
    return error_answer(APIError(error.status_code, "invalid_request_error", str(error.detail)))


async def _unexpected(request: Request, error: Exception) -> Response:
    """The log says more."""
    return error_answer(server_error("the server has failed; its log says where"))


def validation_message(errors: Any) -> str:
    """One line of pydantic's list: which field, and what it must be."""
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return f"the body is not JSON: {reason} at character {first['loc'][-1]}"
    where = _field(first["loc"])
    # A field of several types has an error for each of them.
    reasons = dict.fromkeys(_reason(error) for error in errors if _field(error["loc"]) == where)
    said = "; or ".join(reasons)
    others = len({_field(error["loc"])[:1] for error in errors} - {where[:1]})
    more = f" (and {others} more)" if others else ""
    return f'"{".".join(where)}": {said}{more}' if where else f"the body: {said}{more}"


def _field(loc: Any) -> tuple[str, ...]:
    """Where it is, without the part of the request that pydantic begins with, and its names of types."""
    return tuple(str(part) for part in loc[1:] if isinstance(part, int) or not TYPE.fullmatch(part))


def _reason(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
