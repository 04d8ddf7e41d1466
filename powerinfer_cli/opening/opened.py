"""From a model's path to an engine that runs it."""

from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.opening.companions import find_companions
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.placing import place
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.text import Tokenizer

__all__ = ["Opened", "open_model"]


@dataclass(frozen=True)
class Opened:
    """A model that can be run. gpus: what lies where, a line each."""

    gguf: GGUFFile
    tokenizer: Tokenizer
    engine: Engine
    gpus: tuple[str, ...]


def open_model(
    path: Path,
    options: EngineOptions,
    events: LoadEvents,
    *,
    predictor_path: Path | None = None,
    placement: PlacementWishes | None = None,
) -> Opened:
    """Load a model, with the predictors of a directory where one is given. Raises PowerInferError."""
    gguf = open_model_file(path)
    tokenizer = Tokenizer.from_gguf(gguf)
    beside = find_companions(gguf, path, predictor_path, events.note)
    placed = place(gguf, path, options, placement or PlacementWishes(), beside, events)
    engine = Engine.load(gguf, placed.options, beside.statistics, events, placed.plan, predictors=beside.predictors)
    for line in tokenizer.notes:
        events.note(f"warning: {line}")
    return Opened(gguf, tokenizer, engine, placed.lines)
