"""`powerinfer main`."""

from powerinfer_cli.commands.main.command import app

__all__ = ["app"]
