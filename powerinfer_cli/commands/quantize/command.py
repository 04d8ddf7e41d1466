"""Flags and words to wishes, and what is told of the result."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.commands.shared.termination import tidy_ending
from powerinfer_cli.commands.shared.work_progress import WorkProgress
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.files import same_file

if TYPE_CHECKING:
    from powerinfer_cli.convert.importance import Importance
    from powerinfer_cli.convert.mixes import Mix
    from powerinfer_cli.convert.quantizing import Change, Wishes
    from powerinfer_cli.gguf_io import GGMLType

__all__ = ["app"]

EPILOG = """Examples:
powerinfer quantize model-f16.gguf model-q4.gguf Q4_K_M
powerinfer quantize model-f16.gguf Q4_0                    to ggml-model-Q4_0.gguf beside it
powerinfer quantize model-f16.gguf Q4_K_M --dry-run        what it would become, and how large
powerinfer quantize m.gguf out.gguf IQ3_M --imatrix imatrix.gguf
powerinfer quantize m.gguf out.gguf Q4_K_M --tensor-type attn_v=q8_0 --tensor-type 'blk\\.[0-3]\\.ffn_down=q6_k'

Types: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS
IQ3_M IQ3_S IQ3_XS MXFP4_MOE TQ1_0 TQ2_0 F16 BF16 F32; with --imatrix also IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M
IQ1_S; or llama.cpp's number of one (15: Q4_K_M); Q3_K, Q4_K and Q5_K mean the M.
COPY: every tensor keeps its type, but for those that --tensor-type and the like name."""

COPY = "COPY"
SHORT = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
MEBI = 1 << 20


def _types(*names: str, help: str, metavar: str = "TYPE") -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Types")


@dataclass(frozen=True)
class QuantizeFlags:
    """Names and meanings are llama-quantize's."""

    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="IN.gguf [OUT.gguf] TYPE [THREADS]", help="The model, the file to write, and the type."),
    ] = None
    threads: Annotated[
        int, typer.Option("-t", "--threads", min=0, metavar="N", help="Threads; 0: one for each core.")
    ] = 0
    imatrix: Annotated[
        Path | None, _types("--imatrix", metavar="FILE", help="Which columns matter, from `powerinfer imatrix`.")
    ] = None
    include_weights: Annotated[
        list[str] | None,
        _types("--include-weights", metavar="NAME", help="Use the imatrix for tensors with NAME in their name only."),
    ] = None
    exclude_weights: Annotated[
        list[str] | None,
        _types("--exclude-weights", metavar="NAME", help="Do not use it for tensors with NAME in their name."),
    ] = None
    pure: Annotated[bool, _types("--pure", help="All matrices in the same type, no mix.")] = False
    tensor_type: Annotated[
        list[str] | None,
        _types("--tensor-type", metavar="PATTERN=TYPE", help="Tensors whose names match get this type; repeatable."),
    ] = None
    output_tensor_type: Annotated[str | None, _types("--output-tensor-type", help="Of the output matrix.")] = None
    token_embedding_type: Annotated[str | None, _types("--token-embedding-type", help="Of the embedding.")] = None
    leave_output_tensor: Annotated[bool, _types("--leave-output-tensor", help="The output matrix stays.")] = False
    allow_requantize: Annotated[
        bool, _types("--allow-requantize", help="Take tensors that are quantised already, at a loss.")
    ] = False
    keep_split: Annotated[bool, typer.Option("--keep-split", help="As many parts as the input has.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would become of it.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Tell of every tensor.")] = False


def quantize(flags: QuantizeFlags) -> None:
    """Write a GGUF file, dense or PowerInfer's, with other types."""
    from powerinfer_cli.convert.quantizing import planned, target_parts, write_quantized
    from powerinfer_cli.opening.model_file import open_model_file
    from powerinfer_cli.system.cores import usable_cores

    source, target, mix, threads = _words(flags.words or [])
    wishes, importance = _wishes(flags, mix), _importance(flags)
    terminal = Terminal(color=False, quiet=False)
    with open_model_file(source) as gguf:
        changes = planned(gguf, wishes, importance)
        targets = target_parts(gguf, target, keep_split=flags.keep_split)
        if flags.imatrix is not None and any(same_file(flags.imatrix, path) for path in targets):
            raise PowerInferError(f"{target}: is the importance matrix: give another name for the output")
        _tell(terminal, changes, every=flags.verbose)
        if flags.dry_run:
            return
        with tidy_ending(), WorkProgress("quantizing", in_bytes=True) as progress:
            written = write_quantized(
                gguf,
                target,
                changes,
                mix,
                importance=importance,
                threads=threads or flags.threads or len(usable_cores()),
                keep_split=flags.keep_split,
                on_bytes=progress.tell,
            )
    for path in written:
        print(path)


app = command_app("quantize", quantize, EPILOG)


def _words(words: Sequence[str]) -> tuple[Path, Path, "Mix | None", int]:
    """Input, output, mix (None: COPY), and threads (0: not said), from two to four words, as llama-quantize reads them:
    the second is the type where it is one, else the output.
    """
    if len(words) < 2:
        raise UsageError("what becomes of which file? As in `powerinfer quantize model-f16.gguf model-q4.gguf Q4_K_M`")
    source = Path(words[0])
    name = _mix_name(words[1])
    if name is not None:
        return source, source.with_name(f"ggml-model-{name}.gguf"), _mix(name), _count(words[2:])
    name = _mix_name(words[2]) if len(words) > 2 else None
    if name is None:
        from powerinfer_cli.convert.mixes import MIXES

        wrong = words[min(2, len(words) - 1)]
        raise UsageError(f"there is no type {wrong[:40]!r}; known are {', '.join(MIXES)}, COPY")
    return source, Path(words[1]), _mix(name), _count(words[3:])


def _mix_name(word: str) -> str | None:
    """By name or by number."""
    from powerinfer_cli.convert.mixes import MIXES

    name = SHORT.get(word.upper(), word.upper())
    if name in MIXES or name == COPY:
        return name
    return next((mix.name for mix in MIXES.values() if word == str(mix.number)), None)


def _mix(name: str) -> "Mix | None":
    from powerinfer_cli.convert.mixes import MIXES

    return None if name == COPY else MIXES[name]


def _count(words: Sequence[str]) -> int:
    if not words:
        return 0
    if len(words) > 1:
        raise UsageError(f"unexpected '{words[1][:60]}': the words are IN.gguf [OUT.gguf] TYPE [THREADS]")
    if not words[0].isdecimal() or not 0 < int(words[0]) <= 1 << 12:
        raise UsageError(f"unexpected '{words[0][:60]}': behind the type comes a number of threads")
    return int(words[0])


def _wishes(flags: QuantizeFlags, mix: "Mix | None") -> "Wishes":
    from powerinfer_cli.convert.quantizing import Wishes

    if mix is None and flags.pure:
        raise UsageError("--pure: all matrices in the same type, but COPY names none")
    return Wishes(
        mix,
        pure=flags.pure,
        types=tuple(_override(text) for text in flags.tensor_type or ()),
        output=_type("--output-tensor-type", flags.output_tensor_type),
        embedding=_type("--token-embedding-type", flags.token_embedding_type),
        leave_output=flags.leave_output_tensor,
        requantize=flags.allow_requantize,
    )


def _override(text: str) -> tuple[re.Pattern[str], "GGMLType"]:
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"--tensor-type {text[:60]!r}: a pattern and a type, as attn_v=q8_0")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--tensor-type {text[:60]!r}: {pattern[:40]!r} is no pattern: {error}") from error
    kind = _type("--tensor-type", name)
    assert kind is not None
    return compiled, kind


def _type(flag: str, name: str | None) -> "GGMLType | None":
    from powerinfer_cli.convert.quantizing import WRITABLE
    from powerinfer_cli.gguf_io import GGMLType

    if name is None:
        return None
    kind = GGMLType.__members__.get(name.upper())
    if kind is None or kind not in WRITABLE:
        known = ", ".join(one.name for one in WRITABLE)
        raise UsageError(f"{flag}: there is no type {name[:40]!r} to write; known are {known}")
    return kind


def _importance(flags: QuantizeFlags) -> "Importance | None":
    from dataclasses import replace

    from powerinfer_cli.convert.importance import read_importance

    include, exclude = flags.include_weights or [], flags.exclude_weights or []
    if include and exclude:
        raise UsageError("--include-weights and --exclude-weights exclude each other")
    if flags.imatrix is None:
        if include or exclude:
            raise UsageError("--include-weights and --exclude-weights choose from --imatrix FILE, which is missing")
        return None
    found = read_importance(flags.imatrix)
    kept = {
        name: values
        for name, values in found.of.items()
        if not any(part in name for part in exclude) and (not include or any(part in name for part in include))
    }
    if not kept:
        raise PowerInferError(f"{flags.imatrix}: nothing in it is left by --include-weights or --exclude-weights")
    return replace(found, of=kept)


def _tell(terminal: Terminal, changes: Sequence["Change"], *, every: bool) -> None:
    """What becomes what, what had to be another type, and the sizes."""
    from powerinfer_cli.gguf_io import shown_name

    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    other: Counter[tuple[str, str, int]] = Counter()
    for change in changes:
        tensor, kind = change.tensor, change.kind
        if every:
            shape = " x ".join(map(str, tensor.shape))
            weighted = ", by the imatrix" if change.importance is not None else ""
            terminal.tell(f"{shown_name(tensor.name)}: {shape}, {tensor.type.name} to {kind.name}{weighted}")
        numbers[kind.name] += 1
        sizes[kind.name] += change.nbytes
        if change.wanted is not kind:
            other[change.wanted.name, kind.name, tensor.shape[-1]] += 1
    for (wanted, given, n_cols), count in other.items():
        terminal.tell(f"{count} tensors are {given} for {wanted}, whose blocks do not divide rows of {n_cols}")
    for name, size in sizes.most_common():
        terminal.tell(f"{name:8} {numbers[name]:5} tensors {size / MEBI:10.1f} MiB")
    before, after = sum(change.tensor.nbytes for change in changes), sum(sizes.values())
    elements = sum(change.tensor.n_elements for change in changes)
    bits = 8 * after / elements if elements else 0
    terminal.tell(f"{before / MEBI:.1f} MiB become {after / MEBI:.1f} MiB, {bits:.2f} bits a weight")
