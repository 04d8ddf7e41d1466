"""`powerinfer inspect`: what a GGUF file holds, and what becomes of it here."""

from powerinfer_cli.commands.inspect.command import app

__all__ = ["app"]
