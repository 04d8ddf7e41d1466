"""Everything that can go wrong in a handler, as llama-server's error bodies."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.rendering.limits import Cause
from powerinfer_cli.serving.errors import APIError, invalid_request, not_found, server_error, unavailable
from powerinfer_cli.serving.http.bodies import error_answer
from powerinfer_cli.serving.http.wrong_fields import validation_message
from powerinfer_cli.text import TemplateError

__all__ = ["handle_failures"]


def handle_failures(app: FastAPI) -> None:
    """Have the app answer them."""
    app.add_exception_handler(APIError, _api_error)
    app.add_exception_handler(PowerInferError, _user_error)
    app.add_exception_handler(RequestValidationError, _wrong_fields)
    app.add_exception_handler(ValidationError, _wrong_fields)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error_answer(error)


async def _user_error(request: Request, error: Exception) -> Response:
    """Of the layers below, which speak of what they were given."""
    if isinstance(error, TemplateError) and error.cause is Cause.PROCESS:
        return error_answer(unavailable(str(error)))
    return error_answer(invalid_request(str(error)))


async def _wrong_fields(request: Request, error: Exception) -> Response:
    """Of a request, or of one that was made of it, as Anthropic's are made OpenAI's."""
    if isinstance(error, RequestValidationError):
        return error_answer(invalid_request(validation_message(error.errors())))
    assert isinstance(error, ValidationError)
    errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
    return error_answer(invalid_request(validation_message(errors)))


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
