"""Where models are looked for, for the commands about models on this machine."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerinfer_cli.printable import printable

if TYPE_CHECKING:
    from powerinfer_cli.hub.local import StoredModel

__all__ = ["StoreFlags", "complete_model"]


@dataclass(frozen=True)
class StoreFlags:
    """Besides ./models and the hub's cache."""

    models_dir: Annotated[
        list[Path],
        typer.Option("--models-dir", metavar="DIR", help="A folder of models besides ./models and the hub's cache."),
    ] = field(default_factory=list)

    def found(self) -> "list[StoredModel]":
        """All of them, by name. Raises PowerInferError."""
        from powerinfer_cli.hub.local import here

        return here(self.models_dir, lambda line: print(printable(f"warning: {line}"), file=sys.stderr))


def complete_model(incomplete: str) -> list[str]:
    """For shells: names of models, and paths."""
    from powerinfer_cli.hub.local import completions

    begun = Path(incomplete)
    folder = begun if incomplete.endswith("/") else begun.parent
    try:
        paths = [f"{path}/" if path.is_dir() else str(path) for path in folder.iterdir()]
    except OSError:
        paths = []
    fitting = [path for path in paths if path.startswith(incomplete) and path.endswith(("/", ".gguf"))]
    return completions(incomplete) + sorted(fitting)
