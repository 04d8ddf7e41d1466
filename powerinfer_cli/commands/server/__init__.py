"""`powerinfer server`."""

from powerinfer_cli.commands.server.command import app

__all__ = ["app"]
