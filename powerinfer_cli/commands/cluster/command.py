"""`powerinfer cluster`: a group of commands about several machines."""

from typing import Any

import typer
import typer.core
import typer.main

from powerinfer_cli.commands.shared.help_page import help_page
from powerinfer_cli.errors import UsageError

__all__ = ["app"]

COMMANDS = {
    "run": "Run a model in layer ranges, one a machine: a text, a chat, or with --port a server.",
    "serve": "Serve a model by several engines behind one port (Ray Serve).",
    "config": "Write a file for `serve deploy`, on a Ray cluster that is there.",
}


class ClusterGroup(typer.core.TyperGroup):
    """Knows its commands by name; `run` is what `main` does, or with --port what `server` does."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_page(self, ctx, list(COMMANDS.items())))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            raise UsageError(f"there is no command 'cluster {args[0][:60]}': there is {', '.join(COMMANDS)}")
        command = typer.main.get_command(_chosen(args))
        command.name = args[0]
        return args[0], command, args[1:]


def _chosen(args: list[str]) -> typer.Typer:
    """args: a command's name, and its words."""
    if args[0] == "serve":
        from powerinfer_cli.commands.cluster.serve import app as chosen
    elif args[0] == "config":
        from powerinfer_cli.commands.cluster.config import app as chosen
    elif any(arg.partition("=")[0] == "--port" for arg in args):
        from powerinfer_cli.commands.cluster.run_server import app as chosen
    else:
        from powerinfer_cli.commands.cluster.run_text import app as chosen
    return chosen


app = typer.Typer(
    cls=ClusterGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run a model on several machines: its layers divided among them, or many replicas.",
)


@app.callback()
def _group() -> None:
    pass


def _named_only() -> None:
    """Stands for a command whose module is not loaded yet."""


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(_named_only)
