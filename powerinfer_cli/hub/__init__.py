"""The Hugging Face hub: which files of a repository make a model, and bringing them here."""

from powerinfer_cli.hub.aliases import GROUPS, is_for_chat
from powerinfer_cli.hub.checkpoint import fetch_checkpoint
from powerinfer_cli.hub.choice import Wish, size_text
from powerinfer_cli.hub.request import FetchedModel, Request, fetch, fetch_model, parse_spec
from powerinfer_cli.hub.watch import Watch

__all__ = [
    "GROUPS",
    "FetchedModel",
    "Request",
    "Watch",
    "Wish",
    "fetch",
    "fetch_checkpoint",
    "fetch_model",
    "is_for_chat",
    "parse_spec",
    "size_text",
]
