"""Which predictors a model runs with, for every command that runs one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["PredictorFlags"]


@dataclass(frozen=True)
class PredictorFlags:
    """The name is that of the original's tools."""

    predictor_path: Annotated[
        Path | None,
        typer.Option(
            "--predictor-path",
            metavar="DIR",
            help="Trained predictors: of a dense model, too, only predicted neurons are computed.",
            rich_help_panel="Model and engine",
        ),
    ] = None
