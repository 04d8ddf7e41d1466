"""`powerinfer solve`."""

from powerinfer_cli.commands.solve.command import app

__all__ = ["app"]
