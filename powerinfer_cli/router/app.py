"""The router as a server: its routes behind the same door as a model's, and its life from an open port to the end."""

import os
import socket
from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli import __version__
from powerinfer_cli.router.models import Models
from powerinfer_cli.router.options import RouterOptions
from powerinfer_cli.router.routes import router
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.failures import handle_failures
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.middleware import Access, Gate
from powerinfer_cli.serving.http.reading import Bodies
from powerinfer_cli.serving.http.sockets import url_of
from powerinfer_cli.serving.lifecycle import warn_of_pages
from powerinfer_cli.serving.routes.page import make_page
from powerinfer_cli.serving.running import Running

__all__ = ["make_router", "serve_models"]

LARGEST = 16 << 20  # bytes of a request: the text of a million tokens; a model's own server may take less


def make_router(models: Models, log: Log) -> ASGIApp:
    """All of it, as uvicorn takes it. Raises PowerInferError for a --path that is no folder."""
    door = models.options.door
    page = make_page(door)
    of_page, of_models = _app(page.router, models), _app(router, models)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        """What is no file of the page is a model's, whatever it is called."""
        asks = scope["method"] == "GET" and page.has(scope["path"])
        await (of_page if asks else of_models)(scope, receive, send)

    bodies = Bodies(either, lambda path: LARGEST, door.timeout_s)
    return Access(Gate(bodies, door, lambda: None, page.has), log)


def _app(routes: APIRouter, models: Models) -> FastAPI:
    app = FastAPI(
        title="powerinfer",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # each model's server has its own
        redirect_slashes=False,
        default_response_class=Answer,
    )
    app.state.models = models
    app.include_router(routes)
    handle_failures(app)
    return app


def serve_models(options: RouterOptions, sockets: Sequence[socket.socket], log: Log) -> None:
    """Until a signal ends it.

    Raises:
        PowerInferError: there are no models, or they cannot be told apart.
    """
    models = Models(options, log)
    running = Running(
        make_router(models, log),
        sockets,
        options.door.timeout_s,
        log,
        end_tasks=models.pool.kill,
        beside=models.running,
    )
    urls = [url_of(sock) for sock in sockets]
    with running.watched():
        warn_of_pages(options.door, log)
        log.note(f"{len(models.catalog.entries)} models, {options.room.most or 'any number'} of them loaded at a time")
        for name in models.catalog.entries:
            log.note(f"  {name}")
        for url in urls:
            log.note(f"server is listening on {url}")
        running.serve()
        if running.signals:
            os._exit(0)
