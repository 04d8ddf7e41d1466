"""`powerinfer rm`: delete a model, and what was made for it."""

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.store import StoreFlags, complete_model
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.printable import printable

__all__ = ["app"]

EPILOG = """Examples:
powerinfer rm smollm2-135m       asks, after it has said what goes
powerinfer rm smollm2-135m -y"""


@dataclass(frozen=True)
class RemoveFlags:
    """Which model, and whether to ask."""

    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="As `powerinfer list` shows it.", autocompletion=complete_model),
    ] = None
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False


def remove(store: StoreFlags, flags: RemoveFlags) -> None:
    """Delete a model's files, and what was made for it: statistics, predictors, plans.

    It asks first, and says how much is freed.
    """
    from powerinfer_cli.hub import size_text
    from powerinfer_cli.hub.local import find_stored
    from powerinfer_cli.hub.local.removal import delete, removal

    if not flags.name:
        raise UsageError("which model? As in `powerinfer rm NAME`; `powerinfer list` shows names")
    models = store.found()
    model = find_stored(flags.name, models)
    going = removal(model, models)
    for path in going.paths:
        print(printable(str(path)), file=sys.stderr)
    if not flags.yes:
        if not sys.stdin.isatty():
            raise PowerInferError(f"{model.name} was not deleted: nobody can be asked here; -y deletes without asking")
        typer.confirm(f"delete {printable(model.name)}, which frees {size_text(going.size)}?", abort=True, err=True)
    delete(going)
    print(f"{size_text(going.size)} freed", file=sys.stderr)


app = command_app("rm", remove, EPILOG)
