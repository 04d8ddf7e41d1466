"""`powerinfer main`: write text with a model, from a prompt, in a chat, or in a pipe."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.escapes import process_escapes
from powerinfer_cli.commands.flags import ModelFlags, SamplingFlags
from powerinfer_cli.commands.groups import flat
from powerinfer_cli.commands.loading import Loading
from powerinfer_cli.commands.machine_flags import MachineFlags, cpu_line, with_machine
from powerinfer_cli.commands.model_source import find_model
from powerinfer_cli.commands.terminal import Style, Terminal
from powerinfer_cli.commands.text_file import read_text
from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.session import Session

__all__ = ["app"]

EPILOG = """Examples:

powerinfer main -p "Once upon a time"           a story from the bundled model

powerinfer main -cnv                            a chat; /help lists its commands

powerinfer main -m model.gguf -f notes.txt -n 64 -s 1 --temp 0 > out.txt

powerinfer main -hf PowerInfer/Bamboo-base-v0.1-gguf -p "Hello" -n 64"""

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def _text(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Text")


def _chat(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Interaction")


@dataclass(frozen=True)
class TextFlags:
    """What to write, how much of it, and what is shown."""

    prompt: Annotated[str | None, _text("-p", "--prompt", metavar="TEXT", help="Text to continue.")] = None
    file: Annotated[Path | None, _text("-f", "--file", metavar="FILE", help="The same, from a file.")] = None
    n_predict: Annotated[
        int, _text("-n", "--n-predict", "--predict", metavar="N", help="Tokens to write; -1: until the text ends.")
    ] = -1
    keep: Annotated[
        int, _text("--keep", metavar="N", help="Prompt tokens to keep when the context shifts; -1: all.")
    ] = 0
    context_shift: Annotated[
        bool,
        _text(
            "--ctx-shift/--no-ctx-shift",
            "--context-shift/--no-context-shift",
            help="Full context: drop the oldest half, go on.",
        ),
    ] = False
    escape: Annotated[bool, _text("-e", "--escape/--no-escape", help=r"Process \n, \t, \xHH and so on.")] = True
    reverse_prompt: Annotated[
        list[str],
        _text(
            "-r", "--reverse-prompt", metavar="TEXT", help="Stop (or listen, with -i) once this is written; repeatable."
        ),
    ] = field(default_factory=list)
    special: Annotated[bool, _text("-sp", "--special", help="Show special tokens.")] = False
    verbose_prompt: Annotated[bool, _text("--verbose-prompt", help="List the prompt's tokens first.")] = False
    display_prompt: Annotated[bool, _text("--display-prompt/--no-display-prompt", help="Show the prompt too.")] = True
    color: Annotated[bool, _text("-co", "--color", help="Colour the prompt and what you type.")] = False
    log_disable: Annotated[bool, _text("--log-disable", help="Nothing but the text and errors.")] = False


@dataclass(frozen=True)
class InteractionFlags:
    """Whether, and how, a person takes part."""

    interactive: Annotated[
        bool, _chat("-i", "--interactive", help="Take turns: listen after -r, Ctrl-C or the end.")
    ] = False
    interactive_first: Annotated[bool, _chat("-if", "--interactive-first", help="The same, listening first.")] = False
    instruct: Annotated[bool, _chat("-ins", "--instruct", help="Instructions and answers in the Alpaca manner.")] = (
        False
    )
    conversation: Annotated[
        bool, _chat("-cnv/-no-cnv", "--conversation/--no-conversation", help="A chat by the model's template.")
    ] = False
    single_turn: Annotated[bool, _chat("-st", "--single-turn", help="A chat of one answer.")] = False
    system_prompt: Annotated[
        str | None, _chat("-sys", "--system-prompt", metavar="TEXT", help="A chat with this system message.")
    ] = None
    chat_template: Annotated[
        str | None, _chat("--chat-template", metavar="NAME|FILE", help="A chat by this, not by the model's own.")
    ] = None
    in_prefix: Annotated[str, _chat("--in-prefix", metavar="TEXT", help="Goes before what you type.")] = ""
    in_suffix: Annotated[str, _chat("--in-suffix", metavar="TEXT", help="Goes after what you type.")] = ""
    in_prefix_bos: Annotated[bool, _chat("--in-prefix-bos", help="A begin-of-text token before that.")] = False
    multiline_input: Annotated[
        bool, _chat("-mli", "--multiline-input", help=r"Lines go on until one ends with \ or /.")
    ] = False
    simple_io: Annotated[bool, _chat("--simple-io", help="No line editing; for limited terminals.")] = False

    @property
    def chatting(self) -> bool:
        """-sys and the like mean nothing but a chat."""
        return bool(self.conversation or self.system_prompt or self.chat_template or self.single_turn)

    @property
    def taking_turns(self) -> bool:
        return self.interactive or self.interactive_first or self.instruct

    @property
    def writes_first(self) -> bool:
        return not (self.interactive_first or self.instruct)


def main(
    model: ModelFlags,
    machine: MachineFlags,
    text: TextFlags,
    interaction: InteractionFlags,
    sampling: SamplingFlags,
) -> None:
    """Write text with a model: from a prompt, in a chat, or in a pipe."""
    _check(text, interaction)
    unescape = process_escapes if text.escape else str
    sampler_options = sampling.options(unescape)
    prompt = _prompt(text)
    terminal = Terminal(color=text.color, quiet=text.log_disable)
    for flag in _without_effect(interaction):
        terminal.note(f"warning: {flag} has no effect here")
    path = find_model(model)

    from powerinfer_cli.commands.session import open_session

    options = with_machine(model.options(), machine)
    with Loading(terminal.note, quiet=text.log_disable) as events:
        session = open_session(path, options, sampler_options, context_shift=text.context_shift, events=events)
    _introduce(terminal, session, path)
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
    from powerinfer_cli.commands.interactive import TurnOptions, take_turns
    from powerinfer_cli.commands.writing import start, write

    reverse = [unescape(words) for words in text.reverse_prompt if words]
    turns = TurnOptions(
        n_predict=text.n_predict,
        reverse_prompts=reverse,
        in_prefix=unescape(interaction.in_prefix),
        in_suffix=unescape(interaction.in_suffix),
        in_prefix_bos=interaction.in_prefix_bos,
        instruct=interaction.instruct,
        multiline=interaction.multiline_input,
        simple_io=interaction.simple_io,
        special=text.special,
        unescape=unescape,
    )
    if interaction.chatting:
        from powerinfer_cli.commands.chat import ChatOptions, chat

        options = ChatOptions(
            system=unescape(interaction.system_prompt or ""),
            first=prompt,
            template=interaction.chat_template,
            n_keep=text.keep,
            verbose=text.verbose_prompt,
            single_turn=interaction.single_turn,
        )
        chat(session, terminal, turns, options)
        return
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
        listen_first = not interaction.writes_first or prompt.endswith(tuple(reverse))
        take_turns(session, terminal, detokenizer, turns, listen_first=listen_first)
    else:
        write(session, terminal, detokenizer, text.n_predict, reverse)


app.command("main", epilog=EPILOG)(flat(main))


def _check(text: TextFlags, interaction: InteractionFlags) -> None:
    if text.prompt is not None and text.file is not None:
        raise UsageError("-p and -f exclude each other: give one prompt")
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


def _prompt(text: TextFlags) -> str:
    return (text.prompt or "") if text.file is None else read_text(text.file)


def _introduce(terminal: Terminal, session: "Session", path: Path) -> None:
    config = session.engine.config
    kind = "sparse" if config.sparse else "dense"
    terminal.note(f"model:   {config.name} ({config.architecture.name}, {kind}), {path}")
    terminal.note(f"context: {session.engine.n_ctx} tokens (trained on {config.n_ctx_train})")
    terminal.note(f"cpu:     {cpu_line(session.engine.options)}")
    terminal.note(f"seed:    {session.sampler.seed}")
    if session.engine.n_ctx > config.n_ctx_train:
        terminal.note(f"warning: the model was trained on {config.n_ctx_train} tokens of context only")
    terminal.note()
