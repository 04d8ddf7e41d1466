"""`powerinfer download`."""

from powerinfer_cli.commands.download.command import app

__all__ = ["app"]
