"""Flags of `powerinfer inspect`, and its two ways to show what was found."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.errors import UsageError

__all__ = ["app"]

EPILOG = """Examples:
powerinfer inspect model.gguf
powerinfer inspect model.gguf --tensors             every tensor: type, shape, bytes
powerinfer inspect model.gguf --json | jq .model    for programs

Files that are broken are shown as far as they can be read, with the reason, and exit code 1."""


@dataclass(frozen=True)
class InspectFlags:
    """Which file, and how much of it is shown."""

    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A GGUF file: a model, a plan, an importance matrix.")
    ] = None
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor, not only their sums by type.")] = False
    template: Annotated[bool, typer.Option("--template", help="Show the chat template in full.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False


def inspect(flags: InspectFlags) -> None:
    """Show what a GGUF file holds, and what becomes of it here.

    Nothing but the header is read, so that it is quick for files of any size.
    """
    from powerinfer_cli.commands.inspect.findings import findings
    from powerinfer_cli.commands.inspect.page import page
    from powerinfer_cli.gguf_io import survey

    if flags.file is None:
        raise UsageError("which file? As in `powerinfer inspect model.gguf`")
    found = survey(flags.file)
    told = findings(found)
    if flags.as_json:
        print(json.dumps(told, indent=2, allow_nan=False))
    else:
        print(page(told, tensors=flags.tensors, template=flags.template))
    if found.fault is not None:
        raise typer.Exit(1)


app = command_app("inspect", inspect, EPILOG)
