"""`powerinfer main`: write text with a model, from a prompt, in a chat, or in a pipe."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from powerinfer_cli.commands.main.flags import InteractionFlags, MainCommand, TextFlags
from powerinfer_cli.commands.main.timings import seconds_running
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.escapes import process_escapes
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.grammar import GrammarFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, cpu_line, with_machine
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.flags.sampling import SamplingFlags
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.terminal import Style, Terminal
from powerinfer_cli.commands.shared.text_file import STDIN, read_stdin, read_text
from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.main.interactive import TurnOptions
    from powerinfer_cli.commands.main.session import Session
    from powerinfer_cli.opening import ExecutorChoice

__all__ = ["app", "write_text"]

EPILOG = """Examples:
powerinfer main -p "Once upon a time"           a story from the bundled model
powerinfer main -cnv                            a chat; /help lists its commands
powerinfer main -m model.gguf -f notes.txt -n 64 -s 1 --temp 0 > out.txt
powerinfer main -hf PowerInfer/Bamboo-base-v0.1-gguf -p "Hello" -n 64
powerinfer main -p "A bear: " -j '{"properties": {"name": {"type": "string"}}}'    JSON of this schema
powerinfer main -m dense.gguf --predictor-path predictors -p "Hello" -n 64
powerinfer main -m sparse.gguf --vram-budget 8 -p "Hello"    hot neurons on the GPU, within 8 GiB"""


def main(
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    text: TextFlags,
    interaction: InteractionFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
) -> None:
    """Write text with a model: from a prompt, in a chat, or in a pipe."""
    write_text(model, predictor, machine, placement, drafts, text, interaction, sampling, grammar)


def write_text(
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    text: TextFlags,
    interaction: InteractionFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
    executor: "ExecutorChoice | None" = None,
) -> None:
    """What the command does. executor: who computes instead of this machine alone."""
    _check(text, interaction)
    unescape = process_escapes if text.escape else str
    sampler_options = sampling.options(unescape)
    form, draft_options = grammar.form(), drafts.options(model.hf_token)
    prompt = _prompt(text, interaction)
    may_chat = interaction.chatting or _nothing_given(text, interaction)
    terminal = Terminal(color=text.color.wanted, quiet=text.log_disable)
    for flag in _without_effect(interaction):
        terminal.note(f"warning: {flag} has no effect here")
    path = find_model(model)

    if may_chat:
        from powerinfer_cli.rendering.renderer import shared_renderer

        shared_renderer().start()  # and meanwhile the model loads
    from powerinfer_cli.commands.main.session import open_session
    from powerinfer_cli.sampling.forms import grammars_of

    options = with_machine(model.options(), machine)
    with Loading(terminal.note, quiet=text.log_disable) as events:
        session = open_session(
            path,
            options,
            sampler_options,
            context_shift=bool(text.context_shift),
            events=events,
            predictor_path=predictor.predictor_path,
            placement=placement.wishes(),
            drafts=draft_options,
            executor=executor,
        )
        session.constraint = form.compiled(
            grammars_of(session.tokenizer, lambda line: terminal.note(f"warning: {line}"))
        )
        session.timings.load_s = seconds_running()
    _introduce(terminal, session, path, predictor.predictor_path)
    if prompt is None:  # only now: waiting for it is no part of loading
        prompt = read_stdin()
    if may_chat and session.tokenizer.chat_template is not None:
        interaction = replace(interaction, conversation=True)
    try:
        _run(session, terminal, text, interaction, prompt=prompt, unescape=unescape)
    except (PowerInferError, OSError):
        terminal.quiet()  # no report of a failure, nor to a reader who has gone
        raise
    finally:
        terminal.style(Style.PLAIN)
        terminal.end_line()
        for line in session.report():
            terminal.note(line)


def _run(
    session: "Session",
    terminal: Terminal,
    text: TextFlags,
    interaction: InteractionFlags,
    *,
    prompt: str,
    unescape: Callable[[str], str],
) -> None:
    turns = _turns(text, interaction, unescape)
    if interaction.chatting:
        _chat_with(session, terminal, text, interaction, turns, prompt)
        return
    from powerinfer_cli.commands.main.interactive import take_turns
    from powerinfer_cli.commands.main.writing import start, write

    if interaction.taking_turns:
        terminal.note("Ctrl-C interrupts the model; Ctrl-C or Ctrl-D ends, where the word is yours.")
    prompt = unescape(prompt)
    detokenizer = start(
        session,
        terminal,
        prompt,
        keep=text.keep,
        show=text.display_prompt,
        verbose=text.verbose_prompt,
        special=text.special,
    )
    if interaction.taking_turns:
        listen_first = not prompt or not interaction.writes_first or prompt.endswith(tuple(turns.reverse_prompts))
        take_turns(session, terminal, detokenizer, turns, listen_first=listen_first)
    else:
        write(session, terminal, detokenizer, text.n_predict, turns.reverse_prompts)


def _turns(text: TextFlags, interaction: InteractionFlags, unescape: Callable[[str], str]) -> "TurnOptions":
    from powerinfer_cli.commands.main.interactive import TurnOptions

    return TurnOptions(
        n_predict=text.n_predict,
        reverse_prompts=[unescape(words) for words in text.reverse_prompt if words],
        in_prefix=unescape(interaction.in_prefix),
        in_suffix=unescape(interaction.in_suffix),
        in_prefix_bos=interaction.in_prefix_bos,
        instruct=interaction.instruct,
        multiline=interaction.multiline_input,
        simple_io=interaction.simple_io,
        special=text.special,
        unescape=unescape,
    )


def _chat_with(
    session: "Session",
    terminal: Terminal,
    text: TextFlags,
    interaction: InteractionFlags,
    turns: "TurnOptions",
    first: str,
) -> None:
    from powerinfer_cli.commands.main.chat import ChatOptions, chat

    options = ChatOptions(
        system=turns.unescape(interaction.system_prompt or ""),
        first=first,
        template=interaction.chat_template,
        n_keep=text.keep,
        verbose=text.verbose_prompt,
        single_turn=interaction.single_turn,
        forget=text.context_shift is not False,
    )
    chat(session, terminal, turns, options)


app = command_app("main", main, EPILOG, cls=MainCommand)


def _check(text: TextFlags, interaction: InteractionFlags) -> None:
    if interaction.chatting and interaction.taking_turns:
        raise UsageError(
            "a chat (-cnv, -sys, -st, --chat-template) excludes -i, -if and -ins: its template says whose turn"
        )
    if text.n_predict < -2:
        raise UsageError(
            f"-n must be -1 (until the text ends), -2 (until the context is full) or more, got {text.n_predict}"
        )
    if text.keep < -1:
        raise UsageError(f"--keep must be -1 (all) or more, got {text.keep}")


def _without_effect(interaction: InteractionFlags) -> list[str]:
    """Flags that mean nothing beside the others that were given."""
    given = {
        "--in-prefix-bos": interaction.in_prefix_bos,
        "--in-prefix": interaction.in_prefix,
        "--in-suffix": interaction.in_suffix,
        "--multiline-input": interaction.multiline_input,
    }
    if interaction.taking_turns:
        return []
    idle = ["--in-prefix-bos"] if interaction.chatting else list(given)
    return [flag for flag in idle if given[flag]]


def _prompt(text: TextFlags, interaction: InteractionFlags) -> str | None:
    """What -p or -f says; None for what is piped in, unless that is somebody's turns."""
    if text.file is not None:
        return None if text.file == STDIN else read_text(text.file)
    if text.prompt is not None or interaction.chatting or interaction.taking_turns or sys.stdin.isatty():
        return text.prompt or ""
    return None


def _nothing_given(text: TextFlags, interaction: InteractionFlags) -> bool:
    """At a terminal, neither a prompt nor a wish: somebody wants to talk."""
    if text.prompt is not None or text.file is not None or interaction.taking_turns:
        return False
    return interaction.conversation is None and sys.stdin.isatty() and sys.stdout.isatty()


def _introduce(terminal: Terminal, session: "Session", path: Path, predictors: Path | None) -> None:
    config = session.engine.config
    kind = "sparse" if session.gguf.sparse else "experts" if session.engine.has_experts else "dense"
    terminal.note(f"model:   {config.name} ({config.architecture.name}, {kind}), {path}")
    if predictors is not None:
        terminal.note(f"predictors: {predictors} (threshold {config.sparse_threshold:g})")
    terminal.note(f"context: {session.engine.n_ctx} tokens (trained on {config.n_ctx_train})")
    for line in session.gpus:
        terminal.note(f"gpu:     {line}")
    terminal.note(f"cpu:     {cpu_line(session.engine.options)}")
    terminal.note(f"seed:    {session.sampler.seed}")
    if session.engine.n_ctx > config.n_ctx_train:
        terminal.note(f"warning: the model was trained on {config.n_ctx_train} tokens of context only")
    terminal.note()
