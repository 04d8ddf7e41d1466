"""From a model's path and wishes to an engine that runs it: what lies beside the model, GPUs, placing."""

from powerinfer_cli.opening.bundled import bundled_model
from powerinfer_cli.opening.companions import Companions, find_companions
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.opened import Opened, open_model
from powerinfer_cli.opening.placing import Placed, place
from powerinfer_cli.opening.wishes import PlacementWishes

__all__ = [
    "Companions",
    "Opened",
    "Placed",
    "PlacementWishes",
    "bundled_model",
    "find_companions",
    "open_model",
    "open_model_file",
    "place",
]
