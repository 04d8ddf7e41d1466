"""`powerinfer quantize`: a GGUF file with smaller types."""

from powerinfer_cli.commands.quantize.command import app

__all__ = ["app"]
