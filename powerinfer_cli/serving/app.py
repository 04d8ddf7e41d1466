"""The application: routes, what requests pass on their way to them, and how failures are told."""

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from powerinfer_cli import __version__
from powerinfer_cli.serving.errors import not_found
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.document import RESPONSES, describe
from powerinfer_cli.serving.http.failures import handle_failures
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.middleware import Access, Gate
from powerinfer_cli.serving.http.model_names import check_model
from powerinfer_cli.serving.http.reading import Bodies
from powerinfer_cli.serving.routes import ROUTERS
from powerinfer_cli.serving.routes.page import make_page
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.sleeping import Waking

__all__ = ["make_app"]

SMALL = 1 << 16  # bytes, for routes that read a word or two
TOKEN_BYTES = 16  # of JSON, that hold a token of text whatever the language


def make_app(service: Service, log: Log) -> ASGIApp:
    """All of it, as uvicorn takes it. Raises PowerInferError for a --path that is no folder."""
    app = FastAPI(
        title="powerinfer",
        version=__version__,
        summary="One model for several people at once, as llama-server and OpenAI's services answer.",
        docs_url=None,  # these pages would fetch their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=Answer,
        responses=RESPONSES,
    )
    app.state.service = service
    page = make_page(service.options)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(check_model)])
    app.include_router(page.router)  # its names come last
    handle_failures(app)
    describe(app)
    inner: Any = Bodies(Waking(app, service), _most_bytes(service), service.options.timeout_s)
    return Access(Gate(inner, service.options, service.refusal, page.has), log)


def _most_bytes(service: Service) -> Callable[[str], int]:
    """How large a body may be for a path. Raises APIError for one that there is not."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    with_text = {route.path for route in routes if isinstance(route, TextRoute)}

    def most(path: str) -> int:
        if path in with_text:
            return max(service.options.body_bytes, TOKEN_BYTES * service.model.n_ctx_slot)
        if not any(route.path_regex.match(path) for route in routes):
            raise not_found()
        return min(service.options.body_bytes, SMALL)

    return most
