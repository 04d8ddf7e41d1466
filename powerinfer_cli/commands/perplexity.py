"""`powerinfer perplexity`: how well a model predicts a text, as llama.cpp's program of that name."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, with_machine
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.commands.shared.text_file import read_text
from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.shared.interrupts import Interrupt
    from powerinfer_cli.runtime import Engine
    from powerinfer_cli.runtime.perplexity import Score
    from powerinfer_cli.text import Tokenizer

__all__ = ["app"]

LEAST_CONTEXT = 4

EPILOG = """Examples:
powerinfer perplexity -m model.gguf -f wiki.test.raw
powerinfer perplexity -m model.gguf -f text.txt -c 2048 --chunks 8
powerinfer perplexity -m sparse.gguf -f text.txt --compare dense    what the predictors cost
powerinfer perplexity -m dense.gguf --predictor-path predictors -f text.txt --compare dense"""


def _text(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Text")


class Compare(StrEnum):
    """With what a sparse model's score is compared."""

    DENSE = "dense"


@dataclass(frozen=True)
class ChunkedModelFlags(ModelFlags):
    """The same flags, but -c is the length of a chunk."""

    ctx_size: Annotated[
        int,
        typer.Option(
            "-c",
            "--ctx-size",
            min=0,
            metavar="N",
            help="Tokens of a chunk; 0: the model's context.",
            rich_help_panel="Model and engine",
        ),
    ] = 512


@dataclass(frozen=True)
class ScoredTextFlags:
    """Which text, how much of it, and what is told."""

    file: Annotated[Path | None, _text("-f", "--file", metavar="FILE", help="The text.")] = None
    n_chunks: Annotated[int, _text("--chunks", metavar="N", help="Score the first N chunks only; -1: all.")] = -1
    compare: Annotated[
        Compare | None, _text("--compare", help="Sparse models: score with every neuron active as well.")
    ] = None


def perplexity(
    model: ChunkedModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    text: ScoredTextFlags,
) -> None:
    """Measure how well a model predicts a text.

    The text is cut into chunks of -c tokens; the second half of each is scored, so that every token has a context.
    """
    if text.file is None:
        raise UsageError("no text: give -f FILE")
    if text.n_chunks < -1 or text.n_chunks == 0:
        raise UsageError(f"--chunks must be -1 (all) or at least 1, got {text.n_chunks}")
    if 0 < model.ctx_size < LEAST_CONTEXT:
        raise UsageError(f"-c must be at least {LEAST_CONTEXT}, got {model.ctx_size}")
    words = read_text(text.file)
    _score(find_model(model), model, predictor.predictor_path, machine, placement, text, words)


app = command_app("perplexity", perplexity, EPILOG)


def _score(
    path: Path,
    model: ChunkedModelFlags,
    predictor_path: Path | None,
    machine: MachineFlags,
    placement: PlacementFlags,
    text: ScoredTextFlags,
    words: str,
) -> None:
    from powerinfer_cli.commands.shared.interrupts import Interrupt, Interruption
    from powerinfer_cli.opening import open_model
    from powerinfer_cli.opening.model_file import open_model_file
    from powerinfer_cli.runtime.perplexity import chunks, ratio

    terminal = Terminal(color=False, quiet=False)
    if text.compare and predictor_path is None and not open_model_file(path).sparse:
        raise UsageError(
            f"--compare dense: {path} is a dense model, whose neurons are all active without --predictor-path"
        )
    options, wishes = with_machine(model.options(), machine), placement.wishes()
    with Loading(terminal.note) as events:
        opened = open_model(path, options, wishes, predictor_path=predictor_path, events=events)
    for line in opened.gpus:
        terminal.note(f"gpu: {line}")
    n_ctx = opened.n_ctx
    ids = _ids(opened.tokenizer, words)
    _check_length(text.file, len(ids), n_ctx)
    bos_id = opened.tokenizer.bos_id if opened.tokenizer.add_bos else None
    pieces = list(islice(chunks(ids, n_ctx, bos_id), None if text.n_chunks < 0 else text.n_chunks))
    terminal.note(f"{len(pieces)} chunks of {n_ctx} tokens")
    try:
        with Interrupt() as interrupt:
            score = _run(opened.engine, pieces, interrupt)
            _tell_active(terminal, opened.engine)
            if text.compare is None:
                return
            if opened.placement is not None:
                wishes = replace(wishes, disable_gpu_index=True)  # the plan that is kept stays
            opened.close()  # or two models are in memory
            print("with every neuron active:")
            with Loading(terminal.note) as events:
                dense = open_model(path, replace(options, n_ctx=n_ctx, all_active=True), wishes, events=events)
            other = _run(dense.engine, pieces, interrupt)
            value, error = ratio(score, other)
            print(f"Ratio, predictor to every neuron: {value:.5f} +/- {error:.5f}")
    except Interruption as interrupted:
        raise KeyboardInterrupt from interrupted


def _ids(tokenizer: "Tokenizer", words: str) -> list[int]:
    """Without the EOS that closes a text."""
    ids = tokenizer.encode(words, add_special=True, parse_special=False)
    return ids[:-1] if tokenizer.add_eos else ids


def _check_length(file: Path | None, n_ids: int, n_ctx: int) -> None:
    if n_ids < 2 * n_ctx:
        raise PowerInferError(
            f"{file}: {n_ids} tokens, but chunks of {n_ctx} need at least {2 * n_ctx}: "
            "give a longer text, or a smaller -c"
        )


def _run(engine: "Engine", pieces: Sequence[Sequence[int]], interrupt: "Interrupt") -> "Score":
    """Score the chunks, telling the value after each, and the final one."""
    from powerinfer_cli.runtime.perplexity import Score, chunk_losses

    score = Score()
    try:
        for number, piece in enumerate(pieces, start=1):
            score.add(chunk_losses(engine, piece, interrupt.check))
            sys.stdout.write(f"[{number}]{score.perplexity:.4f},")
            sys.stdout.flush()
    finally:
        if score.values:
            print()
    print(f"Final estimate: PPL = {score.perplexity:.4f} +/- {score.error:.5f}")
    return score


def _tell_active(terminal: Terminal, engine: "Engine") -> None:
    active, predicted = engine.stats.mean_active, engine.stats.mean_predicted
    if active is not None and predicted is not None:
        terminal.note(f"active neurons: {active:.1%} mean (predicted active: {predicted:.1%})")
    if (line := engine.stats.placed_line()) is not None:
        terminal.note(f"placement: {line}")
