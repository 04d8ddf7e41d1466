"""For a router: what GPU memory gains a model that it may load."""

import json
from pathlib import Path

from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.opening.planning.gains import token_seconds
from powerinfer_cli.runtime import EngineOptions, LoadEvents

__all__ = ["weigh"]


def weigh(path: Path, options: EngineOptions, placement: PlacementFlags, predictor: PredictorFlags, steps: int) -> None:
    """Print it as JSON. Raises PowerInferError: the model does not run here."""
    print(json.dumps(token_seconds(path, options, placement.wishes(), predictor.predictor_path, LoadEvents(), steps)))
