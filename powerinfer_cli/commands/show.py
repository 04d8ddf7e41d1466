"""`powerinfer show`: one model on this machine."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.store import StoreFlags, complete_model
from powerinfer_cli.commands.shared.model_facts import facts
from powerinfer_cli.errors import UsageError
from powerinfer_cli.printable import printable

__all__ = ["app"]

EPILOG = """Examples:
powerinfer show smollm2-135m             by an alias of `powerinfer download`
powerinfer show Bamboo                   by the beginning of its name
powerinfer show Bamboo --json

`powerinfer inspect FILE` shows what its file holds."""


@dataclass(frozen=True)
class ShowFlags:
    """Which model."""

    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="As `powerinfer list` shows it.", autocompletion=complete_model),
    ] = None
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Predict tokens per second.")] = True
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False


def show(store: StoreFlags, flags: ShowFlags) -> None:
    """Show a model on this machine: its files, its kind, what lies beside it, and what to expect of it."""
    from powerinfer_cli.hub.local import find_stored

    if not flags.name:
        raise UsageError("which model? As in `powerinfer show NAME`; `powerinfer list` shows names")
    model = find_stored(flags.name, store.found())
    told = facts(model, speed=flags.speed)
    print(json.dumps(told, indent=2) if flags.as_json else "\n".join(map(printable, _lines(told, store.models_dir))))
    if told["fault"]:
        raise typer.Exit(1)


def _lines(told: dict[str, Any], folders: Sequence[Path]) -> list[str]:
    from powerinfer_cli.hub import size_text

    lines = [f"name:     {told['name']}", *(f"file:     {path}" for path in told["files"])]
    lines.append(f"size:     {size_text(told['bytes'])}")
    if told["fault"]:
        return [*lines, f"does not run here: {told['fault']}"]
    rate, where = told["tokens_per_second"], [word for folder in folders for word in ("--models-dir", str(folder))]
    lines += [
        f"type:     {told['type']}",
        f"kind:     {told['kind']}",
        f"context:  {told['context']} tokens",
        f"beside:   {', '.join(told['beside']) or 'nothing'}",
        f"memory:   {size_text(told['needed_bytes'])}, which {'fits' if told['fits'] else 'does not fit'} here",
        *([f"speed:    {rate} tokens per second, predicted"] if rate is not None else []),
        f"run:      {shlex.join(('powerinfer', 'run', told['name'], *where))}",
    ]
    return lines


app = command_app("show", show, EPILOG)
