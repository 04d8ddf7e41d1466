"""HTTP: schemas, routes, the one thread that owns the engine, the scheduler of its slots, the web page."""

from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["APIError", "ServerOptions"]
