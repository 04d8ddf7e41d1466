"""`powerinfer download`: a model and its activation statistics from the Hugging Face hub."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.errors import UsageError

if TYPE_CHECKING:
    from powerinfer_cli.hub import FetchedModel, Request

__all__ = ["app"]

_EPILOG = """Examples:
powerinfer download --list                              models to start from
powerinfer download smollm2-135m                        105 MB, a small chat model
powerinfer download bamboo-7b --quant q4                4.68 GB, to ./models/Bamboo-base-v0.1-gguf/
powerinfer download prosparse-llama-2-7b --local-dir /data
powerinfer download OWNER/NAME-GGUF:Q4_K_M              any GGUF repository
powerinfer download OWNER/NAME --include '*.json' --exclude 'old/*'

Downloads go on where they were interrupted: run the same command again. HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and
the usual proxy variables are honoured."""


@dataclass(frozen=True)
class DownloadFlags:
    """What is fetched, and where it goes."""

    repo: Annotated[
        str | None,
        typer.Argument(metavar="REPO_OR_ALIAS[:QUANT]", help="OWNER/NAME on the hub, or a name that --list shows."),
    ] = None
    list_aliases: Annotated[bool, typer.Option("--list", help="Show the aliases, with size and licence.")] = False
    quant: Annotated[
        str | None,
        typer.Option(
            metavar="QUANT",
            help="Which weights: q4, f16, Q4_K_M ... as the files' names say, in any case. f16 also means weights "
            "whose name says nothing.",
        ),
    ] = None
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Take the files that match instead, all of them; weights bring activation/ along."
        ),
    ] = None
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Leave out the files that match.")] = None
    local_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Files go to DIR/NAME/, NAME being the repository's.")
    ] = Path("models")
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="A branch, tag or commit instead of the default branch.")
    ] = None
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            show_default=False,
            help="For private and gated repositories. HF_TOKEN or `hf auth login` keep it off the command line.",
        ),
    ] = None


def download(flags: DownloadFlags) -> None:
    """Fetch a model, and its activation statistics, from the Hugging Face hub.

    The last line, on stdout, is the command that runs it.
    """
    if flags.list_aliases:
        _print_aliases()
        return
    if not flags.repo:
        raise UsageError(
            "which model? `powerinfer download --list` shows some to start from, `powerinfer download --help` the rest"
        )
    try:
        _download(_request(flags.repo, flags))
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from here", file=sys.stderr)
        raise typer.Exit(130) from None


app = command_app("download", download, _EPILOG)


def _request(spec: str, flags: DownloadFlags) -> "Request":
    from powerinfer_cli.hub import Request, Wish, parse_spec

    repo, named, default = parse_spec(spec)
    quant = flags.quant
    if quant is not None and not quant.strip():
        raise UsageError("--quant is empty: name one, as in --quant q4")
    if named and quant and named.lower() != quant.lower():
        raise UsageError(f"'{spec}' and --quant {quant} disagree: give one of them")
    wish = Wish(quant or named, tuple(flags.include or ()), tuple(flags.exclude or ()), default=default)
    return Request(repo, wish, flags.local_dir, flags.revision, flags.token)


def _download(request: "Request") -> None:
    from powerinfer_cli.commands.download.progress import make_watch
    from powerinfer_cli.hub import fetch, is_for_chat

    with make_watch() as watch:
        fetched = fetch(request, watch)
    _report(fetched, chat=is_for_chat(request.repo))


def _report(fetched: "FetchedModel", *, chat: bool) -> None:
    from powerinfer_cli.hub import size_text

    count = len(fetched.files)
    state = "complete" if fetched.new else "complete already"
    files = f"{count} file{'s' if count != 1 else ''}, {size_text(fetched.size)}"
    print(f"{fetched.folder}: {state} ({files})", file=sys.stderr)
    if fetched.models:
        print("run it with:", file=sys.stderr, flush=True)
    for model in fetched.models:
        how = "-cnv" if chat else '-p "Once upon a time"'
        print(f"powerinfer main -m {shlex.quote(str(model))} {how}", flush=True)


def _print_aliases() -> None:
    """Two lines each, which fit 60 columns: a name that is broken in two is no use."""
    from powerinfer_cli.hub import GROUPS

    for title, group in GROUPS.items():
        typer.echo(f"{title}:")
        for alias in group:
            about = f"{alias.size or 'size unknown':21} {alias.license or 'unknown'}"
            typer.echo(f"  {alias.name:21} {about}\n    {alias.repo}{', for chat' if alias.chat else ''}")
            if alias.note:
                typer.echo(f"    {alias.note}")
        typer.echo()
    typer.echo("powerinfer download NAME: fetch one, and learn how to run it")
