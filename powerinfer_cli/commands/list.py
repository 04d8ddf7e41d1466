"""`powerinfer list`: the models on this machine, and what to expect of each."""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.shared.bars import make_bar, redraws
from powerinfer_cli.commands.shared.columns import columns
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.store import StoreFlags
from powerinfer_cli.commands.shared.model_facts import facts
from powerinfer_cli.printable import printable

if TYPE_CHECKING:
    from powerinfer_cli.hub.local import StoredModel

__all__ = ["app"]

EPILOG = """Examples:
powerinfer list                          what is in ./models and in the hub's cache
powerinfer list --models-dir /data       and in another folder
powerinfer list --no-speed               at once: nothing is measured
powerinfer list --json | jq -r '.[].name'

Tokens per second are predicted, for a context of 4096 tokens; what this machine's CPU and GPUs cost is measured once
for each size and type of weights, which takes some seconds, and kept."""

HEADS = ("NAME", "SIZE", "TYPE", "KIND", "CONTEXT", "BESIDE", "FITS", "TOKENS/S")


@dataclass(frozen=True)
class ListFlags:
    """How much is told."""

    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Predict tokens per second.")] = True
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False


def list_models(store: StoreFlags, flags: ListFlags) -> None:
    """Show the models on this machine, and what to expect of each."""
    models = store.found()
    told = [facts(model, speed=flags.speed) for model in _shown(models)]
    if flags.as_json:
        print(json.dumps(told, indent=2))
    elif told:
        print(columns([HEADS, *map(_row, told)], frozenset({1, 4, 7})))
        for one in told:
            if one["fault"]:
                print(printable(f"{one['name']}: {one['fault']}"), file=sys.stderr)
    else:
        print("no models here: `powerinfer download --list` shows some to start from", file=sys.stderr)


def _shown(models: "list[StoredModel]") -> Any:
    """With a bar where that takes long: measuring is new to a machine."""
    if not redraws():
        return models
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    bar = make_bar(TextColumn("looking at models"), BarColumn(), MofNCompleteColumn())

    def each() -> Any:
        with bar:
            yield from bar.track(models)

    return each()


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    from powerinfer_cli.hub import size_text

    name, size = printable(told["name"]), size_text(told["bytes"])
    if told["fault"]:
        return (name, size, "-", "does not run", "-", "-", "-", "-")
    rate = told["tokens_per_second"]
    return (
        name,
        size,
        told["type"],
        told["kind"],
        str(told["context"]),
        ", ".join(told["beside"]) or "-",
        "yes" if told["fits"] else "no",
        "-" if rate is None else f"{rate:.1f}",
    )


app = command_app("list", list_models, EPILOG)
