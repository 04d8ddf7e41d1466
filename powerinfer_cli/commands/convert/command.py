"""Flags to wishes, where the checkpoint comes from, and what is told of the result."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.commands.shared.termination import tidy_ending
from powerinfer_cli.commands.shared.work_progress import WorkProgress
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.errors import UsageError

if TYPE_CHECKING:
    from powerinfer_cli.convert.converting import Converted

__all__ = ["app"]

EPILOG = """Examples:
powerinfer convert ./SmolLM2-135M-Instruct              to ./SmolLM2-135M-Instruct-BF16.gguf
powerinfer convert HuggingFaceTB/SmolLM2-135M -o m.gguf fetched from the hub first, to ./models/
powerinfer convert ./model -o model.gguf --type q8_0    or f16, bf16, f32; auto: as the checkpoint is
powerinfer convert ./model --split-max-size 4G          parts of at most four gigabytes
powerinfer convert ./ProSparse-7B --predictors ./ProSparse-7B-Predictor -o prosparse.powerinfer.gguf
powerinfer convert ./model --dry-run                    what it would become, and how large

Then `powerinfer quantize` makes it smaller, and `powerinfer inspect` shows what is in it."""

MEBI = 1 << 20
SIZES = {"K": 1000, "M": 1000**2, "G": 1000**3}  # as gguf-split counts


@dataclass(frozen=True)
class ConvertFlags:
    """What is read, and what becomes of it."""

    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER_OR_REPO",
            help="A folder with config.json and weights, or OWNER/NAME on the Hugging Face hub.",
        ),
    ] = None
    output: Annotated[
        Path | None, typer.Option("-o", "--output", "--outfile", metavar="FILE", help="The GGUF file to write.")
    ] = None
    type: Annotated[
        OutType, typer.Option("--type", "--outtype", help="Of the matrices; auto: as the checkpoint's are.")
    ] = OutType.AUTO
    predictors: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="model_N.pt of each layer, of a ReLU model: the file becomes a PowerInfer file."
        ),
    ] = None
    split_max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Write parts of at most so many bytes, as 300M or 4G.")
    ] = None
    threads: Annotated[
        int, typer.Option("-t", "--threads", min=0, metavar="N", help="Threads; 0: one for each core.")
    ] = 0
    local_dir: Annotated[Path, typer.Option(metavar="DIR", help="A checkpoint of the hub's goes to DIR/NAME/.")] = Path(
        "models"
    )
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="A branch, tag or commit of the hub's repository.")
    ] = None
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            show_default=False,
            help="For private and gated repositories. HF_TOKEN or `hf auth login` keep it off the command line.",
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would become of it.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Tell of every tensor.")] = False


def convert(flags: ConvertFlags) -> None:
    """Make a GGUF file of a checkpoint, in a folder or on the Hugging Face hub.

    No code of the checkpoint's is run. Whatever goes wrong, no half-written file is left.
    """
    if flags.source is None:
        raise UsageError("which checkpoint? As in `powerinfer convert ./SmolLM2-135M -o smollm2.gguf`")
    most = _size(flags.split_max_size)
    from powerinfer_cli.convert.checkpoint import open_checkpoint
    from powerinfer_cli.convert.converting import check_apart, convert_checkpoint, write_converted
    from powerinfer_cli.kernels.cpu.encoding import prepare_encoding
    from powerinfer_cli.system.cores import usable_cores

    terminal = Terminal(color=False, quiet=False)
    checkpoint = open_checkpoint(_folder(flags))
    converted = convert_checkpoint(checkpoint, flags.type, predictors=flags.predictors)
    _tell(terminal, converted, every=flags.verbose)
    target = flags.output or Path(converted.file_name)
    check_apart(converted, [target])
    if flags.dry_run:
        return
    with tidy_ending():
        prepare_encoding(converted.types.values())  # may compile, which says nothing of how long the rest takes
        with WorkProgress("converting", in_bytes=True) as progress:
            written = write_converted(
                converted,
                target,
                threads=flags.threads or len(usable_cores()),
                most_bytes=most,
                on_bytes=progress.tell,
            )
    for path in written:
        print(path)


app = command_app("convert", convert, EPILOG)


def _size(text: str | None) -> int | None:
    """Bytes; a number alone counts them."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,15})([KMG]?)", text.upper())
    size = int(found[1]) * SIZES.get(found[2], 1) if found else 0
    if size <= 0:
        raise UsageError(f"--split-max-size {text[:40]!r}: a size, as 300M or 4G")
    return size


def _folder(flags: ConvertFlags) -> Path:
    """The checkpoint's, fetched where it is not here."""
    assert flags.source is not None
    folder = Path(flags.source)
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", flags.source, re.ASCII):
        return folder
    from powerinfer_cli.commands.download.progress import make_watch
    from powerinfer_cli.hub import fetch_checkpoint

    return fetch_checkpoint(
        flags.source, make_watch(), token=flags.token, local_dir=flags.local_dir, revision=flags.revision
    )


def _tell(terminal: Terminal, converted: "Converted", *, every: bool) -> None:
    """What it is, and how large it will be."""
    from powerinfer_cli.gguf_io import shown_name

    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for change in converted.changes:
        if every:
            shape = " x ".join(map(str, change.tensor.shape))
            terminal.tell(f"{shown_name(change.tensor.name)}: {shape}, {change.tensor.type.name} to {change.kind.name}")
        numbers[change.kind.name] += 1
        sizes[change.kind.name] += change.nbytes
    terminal.tell(converted.summary)
    for note in converted.notes:
        terminal.tell(f"note: {note}")
    for name, size in sizes.most_common():
        terminal.tell(f"{name:8} {numbers[name]:5} tensors {size / MEBI:10.1f} MiB")
    terminal.tell(f"{sum(sizes.values()) / MEBI:.1f} MiB in all")
