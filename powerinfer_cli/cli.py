"""The `powerinfer` program: a list of commands, each imported only when it runs, so that --help loads no torch."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any, TextIO

import typer
import typer.core
import typer.main

from powerinfer_cli import __version__
from powerinfer_cli.commands.shared.help_page import help_page
from powerinfer_cli.commands.shared.other_names import advice
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.printable import printable
from powerinfer_cli.system.consoles import reader_gone, use_utf8

__all__ = ["app", "run"]

COMMANDS = {
    "main": "Write text with a model: from a prompt, in a chat, or in a pipe.",
    "server": "Serve a model over HTTP to several people at once, as llama-server does.",
    "run": "Run a model by its name: a chat, or an answer.",
    "list": "Show the models on this machine, and what to expect of each.",
    "show": "Show a model on this machine: its files, its kind, and what to expect of it.",
    "rm": "Delete a model, and what was made for it.",
    "download": "Fetch a model, and its activation statistics, from the Hugging Face hub.",
    "bench": "Measure how fast models run here, and how near that is to what memory allows.",
    "perplexity": "Measure how well a model predicts a text.",
    "cluster": "Run a model on several machines: its layers divided among them, or many replicas.",
    "solve": "Profile a model, train its predictors if it has none, and plan which neurons go to the GPU.",
    "inspect": "Show what a GGUF file holds, and what becomes of it here.",
    "convert": "Make a GGUF file of a checkpoint, in a folder or on the hub.",
    "imatrix": "Collect which columns of a model's matrices matter, for quantize.",
    "quantize": "Write a GGUF file with other types, so that it is smaller.",
    "warmup": "Compile the kernels ahead, so that no first run has to.",
}

COMPLETION = ("--show-completion", "--install-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")

EPILOG = """Examples:
powerinfer main -p "Once upon a time"          a story from the bundled model
powerinfer main -cnv                           a chat with it
powerinfer server                              a server, with a page to chat on
powerinfer download --list                     models to start from
powerinfer main -m model.gguf -p "Hello" -n 64 any GGUF"""


class ReaderGone(Exception):
    """Nobody reads our output any more, as after `| head -1`. Not an OSError: click would end those with code 1."""


class LazyGroup(typer.core.TyperGroup):
    """Knows every command's name and summary; its options only once it is called."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_page(self, ctx, list(COMMANDS.items())))

    def make_context(self, *args: Any, **settings: Any) -> Any:
        try:
            return super().make_context(*args, **settings)
        except BrokenPipeError as error:  # of --help and --version
            raise ReaderGone from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if len(args) == 2 and args[0] in COMPLETION:
            _completion(*args)  # Typer's flags find out in which shell they run; here it may also be named
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if args and args[0].startswith("-") and args[0].partition("=")[0] not in own and not ctx.resilient_parsing:
            raise UsageError(f"{args[0][:40]}: a command comes first, as in `powerinfer main {args[0][:40]} ...`")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        meant = None if args[0] in COMMANDS else advice(args)
        if meant:
            raise UsageError(f"there is no command '{args[0][:60]}': {meant}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and command.name in COMMANDS:
            module = import_module(f"powerinfer_cli.commands.{command.name}")
            command = typer.main.get_command(module.app)
            command.name = name
        return name, command, rest


def _completion(flag: str, shell: str) -> None:
    """Write a shell's script for completion, or put it where that shell looks for it, and end."""
    from typer._completion_shared import get_completion_script, install

    if shell not in SHELLS:
        raise UsageError(f"{flag} {shell[:40]}: no such shell; known are {', '.join(SHELLS)}")
    if flag == "--show-completion":
        typer.echo(get_completion_script(prog_name="powerinfer", complete_var="_POWERINFER_COMPLETE", shell=shell))
    else:
        _, path = install(shell=shell, prog_name="powerinfer", complete_var="_POWERINFER_COMPLETE")
        typer.echo(f"completion for {shell} is in {path}, and works in the next shell that you start")
    raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    name="powerinfer",
    help="Run large language models on one small GPU, or none, by exploiting activation locality.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
    _open_closed_streams()
    use_utf8()
    _keep_stdout_to_text()
    try:
        code = app(prog_name="powerinfer", standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(code)
    except _ClickError as error:
        from powerinfer_cli.commands.shared.wrong_flag import wrong_flag

        given = {arg.partition("=")[0] for arg in sys.argv}
        _fail(wrong_flag(error, given) or error.format_message(), error.exit_code)
    except PowerInferError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except (ReaderGone, BrokenPipeError):
        _drop_output()
        sys.exit(0)
    except OSError as error:
        _drop_output()
        if reader_gone(error):
            sys.exit(0)
        _fail(f"{error.filename or 'cannot write the output'}: {error.strerror or error}", 1)


def _open_closed_streams() -> None:
    """A stream that the caller closed (`<&-`) is None here, and its number would go to the next file that is opened."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        # Read-only for stdout: writing to it fails, as it should where text would be lost.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _keep_stdout_to_text() -> None:
    """Give sys.stdout a number of its own, and 1 to stderr: what libraries print from C must not get into the text."""
    text, notes = _number(sys.stdout), _number(sys.stderr)
    if text != 1 or notes is None:
        return  # somebody else's stream stands there
    sys.stdout.flush()
    own = os.dup(text)
    os.dup2(notes, text)
    sys.stdout = sys.__stdout__ = os.fdopen(  # type: ignore[misc]  # by the latter, libraries ask for the width
        own, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors
    )


def _number(stream: TextIO) -> int | None:
    """A stream's file descriptor; None where it has none."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _drop_output() -> None:
    """Keep Python from flushing, at its end, what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, exit_code: int) -> None:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(exit_code)
