"""`powerinfer cluster`: a group of commands about several machines."""

from typing import Any

import typer
import typer.core
import typer.main

from powerinfer_cli.commands.shared.help_page import help_page
from powerinfer_cli.errors import UsageError

__all__ = ["app"]

COMMANDS = {"run": "Run a model in layer ranges, one a machine: a text, a chat, or with --port a server."}


class ClusterGroup(typer.core.TyperGroup):
    """Knows its commands by name; `run` is what `main` does, or with --port what `server` does."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_page(self, ctx, list(COMMANDS.items())))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            raise UsageError(f"there is no command 'cluster {args[0][:60]}': there is {', '.join(COMMANDS)}")
        if any(arg.partition("=")[0] == "--port" for arg in args):
            from powerinfer_cli.commands.cluster.run_server import app as chosen
        else:
            from powerinfer_cli.commands.cluster.run_text import app as chosen
        command = typer.main.get_command(chosen)
        command.name = args[0]
        return args[0], command, args[1:]


app = typer.Typer(
    cls=ClusterGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run a model whose layers are divided among several machines.",
)


@app.callback()
def _group() -> None:
    pass


def _named_only() -> None:
    """Stands for a command whose module is not loaded yet."""


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(_named_only)
