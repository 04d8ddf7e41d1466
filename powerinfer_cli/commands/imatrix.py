"""`powerinfer imatrix`: which columns of a model's matrices matter, for `powerinfer quantize`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerinfer_cli.commands.perplexity import ChunkedModelFlags
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, with_machine
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.commands.shared.text_file import read_text
from powerinfer_cli.commands.shared.work_progress import WorkProgress
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.files import check_writable, same_file

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.convert.collecting import Collection

__all__ = ["app"]

EPILOG = """Examples:
powerinfer imatrix -m model-f16.gguf -f text.txt
powerinfer imatrix -m model-f16.gguf -f text.txt -o model.imatrix.gguf --chunks 100
powerinfer quantize model-f16.gguf model-q4.gguf Q4_K_M --imatrix model.imatrix.gguf

The text is cut into chunks of -c tokens. Ctrl-C writes what is collected so far."""


@dataclass(frozen=True)
class ImatrixFlags:
    """Which text, how much of it, and where the result goes."""

    file: Annotated[Path | None, typer.Option("-f", "--file", metavar="FILE", help="The text.")] = None
    output: Annotated[
        Path, typer.Option("-o", "--output", "--output-file", metavar="FILE", help="What is written.")
    ] = Path("imatrix.gguf")
    n_chunks: Annotated[int, typer.Option("--chunks", metavar="N", help="Use the first N chunks only; -1: all.")] = -1


def imatrix(model: ChunkedModelFlags, machine: MachineFlags, flags: ImatrixFlags) -> None:
    """Collect which columns of a model's matrices matter, experts by themselves, in llama.cpp's GGUF format."""
    from powerinfer_cli.convert.collecting import Collection
    from powerinfer_cli.convert.importance import write_importance

    if flags.file is None:
        raise UsageError("no text: give -f FILE")
    if flags.n_chunks < -1 or flags.n_chunks == 0:
        raise UsageError(f"--chunks must be -1 (all) or at least 1, got {flags.n_chunks}")
    words = read_text(flags.file)
    terminal, collection = Terminal(color=False, quiet=False), Collection()
    path = find_model(model)
    _check_output(flags.output, {"the model": path, "the text": flags.file})
    n_ctx, interrupted = _collect(path, model, machine, flags, words, collection, terminal)
    if collection.n_chunks:
        write_importance(flags.output, collection.sums, collection.n_chunks, n_ctx, [_utf8(flags.file)])
        terminal.tell(f"{len(collection.sums)} matrices, {collection.n_chunks} chunks of {n_ctx} tokens")
        print(flags.output)
    if interrupted:
        raise KeyboardInterrupt


app = command_app("imatrix", imatrix, EPILOG)


def _check_output(output: Path, inputs: Mapping[str, Path]) -> None:
    """Before the work. Raises PowerInferError."""
    for what, path in inputs.items():
        if same_file(output, path):
            raise PowerInferError(f"{output}: is {what} itself: give another name with -o")
    if not output.parent.is_dir():
        raise PowerInferError(f"{output}: cannot be written: there is no folder {output.parent}")
    if output.exists() and not output.is_file():
        raise PowerInferError(f"{output}: cannot be written: it is no ordinary file")
    check_writable(output.parent, "give another name with -o")


def _utf8(path: Path) -> str:
    return str(path).encode(errors="replace").decode()


def _collect(
    path: Path,
    model: ChunkedModelFlags,
    machine: MachineFlags,
    flags: ImatrixFlags,
    words: str,
    collection: "Collection",
    terminal: Terminal,
) -> tuple[int, bool]:
    """Tokens of a chunk, and whether it was interrupted."""
    from powerinfer_cli.commands.shared.interrupts import Interrupt, Interruption
    from powerinfer_cli.opening import PlacementWishes, open_model

    options = with_machine(model.options(), machine)
    with Loading(terminal.note) as events:
        opened = open_model(path, options, PlacementWishes(device="cpu"), events=events)
    tokenizer, n_ctx = opened.tokenizer, opened.n_ctx
    ids = tokenizer.encode(words, add_special=True, parse_special=False)
    pieces = _pieces(ids, n_ctx, tokenizer.bos_id if tokenizer.add_bos else None, flags)
    try:
        with Interrupt() as interrupt, WorkProgress("collecting", in_bytes=False) as progress:

            def on_chunk(done: int) -> None:
                progress.tell(done, len(pieces))
                interrupt.check()

            collection.collect(opened.engine, pieces, on_chunk)
    except Interruption:
        return n_ctx, True
    finally:
        opened.close()
    return n_ctx, False


def _pieces(ids: Sequence[int], n_ctx: int, bos_id: int | None, flags: ImatrixFlags) -> list[list[int]]:
    from powerinfer_cli.runtime.perplexity import chunks

    if len(ids) < n_ctx:
        raise PowerInferError(f"{flags.file}: {len(ids)} tokens, but a chunk has {n_ctx}: give a longer text, or -c")
    return list(islice(chunks(ids, n_ctx, bos_id), None if flags.n_chunks < 0 else flags.n_chunks))
