"""`powerinfer bench`."""

from powerinfer_cli.commands.bench.command import app

__all__ = ["app"]
