"""`powerinfer convert`: a checkpoint of the hub's kind as a GGUF file."""

from powerinfer_cli.commands.convert.command import app

__all__ = ["app"]
