"""The `powerinfer` program: a list of commands, each imported only when it runs, so that --help loads no torch."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from powerinfer_cli import __version__
from powerinfer_cli.errors import PowerInferError

__all__ = ["app", "run"]

COMMANDS = {
    "main": "Write text with a model: from a prompt, in a chat, or in a pipe.",
    "download": "Fetch a model, and its activation statistics, from the Hugging Face hub.",
}

EPILOG = """Examples:

powerinfer main -p "Once upon a time"          a story from the bundled model

powerinfer main -cnv                           a chat with it

powerinfer download --list                     models to start from

powerinfer main -m model.gguf -p "Hello" -n 64 any GGUF"""


class LazyGroup(typer.core.TyperGroup):
    """Knows every command's name and summary; its options only once it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and command.name in COMMANDS:
            module = import_module(f"powerinfer_cli.commands.{command.name}")
            command = typer.main.get_command(module.app)
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    name="powerinfer",
    help="Run large language models on one small GPU, or none, by exploiting activation locality.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"powerinfer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


def _named_only() -> None:
    """Stands in --help for a command whose module is not loaded yet."""


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(_named_only)


# Typer's own usage errors (unknown option, bad value), whichever click it stands on.
_ClickError: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def run() -> None:
    """The entry point: user errors become one line and an exit code, never a traceback."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except _ClickError as error:
        _fail(error.format_message() or "nothing to do; see `powerinfer --help`", error.exit_code)
    except PowerInferError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head -1`) has gone: leave quietly, and keep Python from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(message: str, exit_code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)
