"""From a model's path and wishes to one that runs: what lies beside it, GPUs, placing. The public Python API."""

from powerinfer_cli.opening.bundled import bundled_model
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.model import OpenModel
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.opened import ExecutorChoice, open_model
from powerinfer_cli.opening.prompts import start_ids
from powerinfer_cli.opening.text_stream import Answer, TextStream
from powerinfer_cli.opening.wishes import PlacementWishes

__all__ = [
    "Answer",
    "Companions",
    "ExecutorChoice",
    "OpenModel",
    "PlacementWishes",
    "TextStream",
    "bundled_model",
    "open_model",
    "open_model_file",
    "start_ids",
]
