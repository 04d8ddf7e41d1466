"""`powerinfer cluster`."""

from powerinfer_cli.commands.cluster.command import app

__all__ = ["app"]
