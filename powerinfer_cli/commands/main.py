"""`powerinfer main`: write text with a model, from a prompt, in a chat, or in a pipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.escapes import process_escapes
from powerinfer_cli.commands.flags import ModelFlags, SamplingFlags
from powerinfer_cli.commands.groups import flat
from powerinfer_cli.commands.model_source import find_model
from powerinfer_cli.commands.terminal import Style, Terminal
from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.session import Session, Stop

__all__ = ["TextFlags", "app"]

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
    conversation: Annotated[bool, _chat("-cnv", "--conversation", help="A chat by the model's template.")] = False
    single_turn: Annotated[bool, _chat("-st", "--single-turn", help="End the chat after one answer.")] = False
    system_prompt: Annotated[
        str | None, _chat("-sys", "--system-prompt", metavar="TEXT", help="The chat's system message.")
    ] = None
    chat_template: Annotated[
        str | None, _chat("--chat-template", metavar="NAME|FILE", help="Instead of the model's own template.")
    ] = None
    in_prefix: Annotated[str, _chat("--in-prefix", metavar="TEXT", help="Goes before what you type.")] = ""
    in_suffix: Annotated[str, _chat("--in-suffix", metavar="TEXT", help="Goes after what you type.")] = ""
    in_prefix_bos: Annotated[bool, _chat("--in-prefix-bos", help="A begin-of-text token before that.")] = False
    multiline_input: Annotated[
        bool, _chat("-mli", "--multiline-input", help=r"Lines go on until one ends with \ or /.")
    ] = False
    simple_io: Annotated[bool, _chat("--simple-io", help="No line editing; for limited terminals.")] = False

    @property
    def taking_turns(self) -> bool:
        return self.interactive or self.interactive_first or self.instruct


def main(model: ModelFlags, text: TextFlags, interaction: InteractionFlags, sampling: SamplingFlags) -> None:
    """Write text with a model: from a prompt, in a chat, or in a pipe."""
    _check(text, interaction)
    unescape = process_escapes if text.escape else str
    sampler_options = sampling.options(unescape)
    prompt = unescape(_prompt(text))
    terminal = Terminal(color=text.color, quiet=text.log_disable)
    path = find_model(model)

    from powerinfer_cli.commands.interactive import TurnOptions, take_turns
    from powerinfer_cli.commands.session import open_session
    from powerinfer_cli.runtime import EngineOptions

    engine_options = EngineOptions(
        n_ctx=model.ctx_size,
        n_batch=model.batch_size,
        n_threads=model.threads,
        n_threads_batch=model.threads_batch,
    )
    session = open_session(path, engine_options, sampler_options, context_shift=text.context_shift, note=terminal.note)
    _introduce(terminal, session, path)
    reverse = [unescape(words) for words in text.reverse_prompt]
    turns = TurnOptions(
        n_predict=text.n_predict,
        reverse_prompts=reverse,
        in_prefix=unescape(interaction.in_prefix),
        in_suffix=unescape(interaction.in_suffix),
        in_prefix_bos=interaction.in_prefix_bos,
        listen_first=interaction.interactive_first or interaction.instruct,
        instruct=interaction.instruct,
        multiline=interaction.multiline_input,
        simple_io=interaction.simple_io,
        special=text.special,
        unescape=unescape,
    )
    try:
        if interaction.conversation:
            from powerinfer_cli.commands.chat import chat

            chat(
                session,
                terminal,
                turns,
                system=unescape(interaction.system_prompt or ""),
                first=prompt,
                template=interaction.chat_template,
                n_keep=text.keep,
                single_turn=interaction.single_turn,
            )
        elif interaction.taking_turns:
            detokenizer = _start(session, terminal, text, prompt)
            take_turns(session, terminal, detokenizer, turns)
        else:
            _write(session, terminal, text, prompt, reverse)
    finally:
        terminal.style(Style.PLAIN)
        terminal.end_line()
        for line in session.report():
            terminal.note(line)


app.command("main", epilog=EPILOG)(flat(main))


def _check(text: TextFlags, interaction: InteractionFlags) -> None:
    if text.prompt is not None and text.file is not None:
        raise UsageError("-p and -f exclude each other: give one prompt")
    if interaction.conversation and interaction.taking_turns:
        raise UsageError("-cnv excludes -i, -if and -ins: a chat takes turns by its template")
    if not interaction.conversation:
        for flag, given in (
            ("-sys", interaction.system_prompt),
            ("--chat-template", interaction.chat_template),
            ("-st", interaction.single_turn),
        ):
            if given:
                raise UsageError(f"{flag} needs a chat: add -cnv")
    if text.n_predict < -2:
        raise UsageError(
            f"-n must be -1 (until the text ends), -2 (until the context is full) or more, got {text.n_predict}"
        )
    if text.keep < -1:
        raise UsageError(f"--keep must be -1 (all) or more, got {text.keep}")


def _prompt(text: TextFlags) -> str:
    if text.file is None:
        return text.prompt or ""
    try:
        content = text.file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise PowerInferError(f"{text.file}: cannot read the prompt: {error.strerror}") from error
    return content.removesuffix("\n")


def _introduce(terminal: Terminal, session: "Session", path: Path) -> None:
    config = session.engine.config
    kind = "sparse" if config.sparse else "dense"
    terminal.note(f"model:   {config.name} ({config.architecture.name}, {kind}), {path}")
    terminal.note(f"context: {session.engine.n_ctx} tokens (trained on {config.n_ctx_train})")
    terminal.note(f"seed:    {session.sampler.seed}")
    if session.engine.n_ctx > config.n_ctx_train:
        terminal.note(f"warning: the model was trained on {config.n_ctx_train} tokens of context only")
    terminal.note()


def _start(session: "Session", terminal: Terminal, text: TextFlags, prompt: str) -> Any:
    """Evaluate and show the prompt; the detokenizer that goes on where it ends."""
    from powerinfer_cli.text import StreamingDetokenizer

    tokenizer = session.tokenizer
    ids = tokenizer.encode(prompt, add_special=True, parse_special=True)
    if not ids:
        if tokenizer.bos_id is None:
            raise PowerInferError("nothing to continue: give a prompt with -p or -f")
        ids = [tokenizer.bos_id]
    n_bos = int(tokenizer.add_bos)
    session.n_keep = len(ids) if text.keep < 0 else min(len(ids), text.keep + n_bos)
    if len(ids) >= session.engine.n_ctx:
        raise PowerInferError(
            f"the prompt has {len(ids)} tokens, but the context holds {session.engine.n_ctx}: "
            "shorten it, or give a larger -c"
        )
    if text.verbose_prompt:
        terminal.note(f"prompt: {len(ids)} tokens, of which {session.n_keep} are kept when the context shifts")
        for token in ids:
            piece = tokenizer.piece(token, special=True).decode("utf-8", "replace")
            terminal.note(f"{token:6d} -> {piece!r}")
        terminal.note()
    detokenizer = StreamingDetokenizer(tokenizer, special=text.special, strip_first_space=not prompt.startswith(" "))
    terminal.style(Style.PROMPT)
    for token in ids:
        piece = detokenizer.push(token)
        if text.display_prompt:
            terminal.text(piece)
    terminal.style(Style.PLAIN)
    if not session.feed(ids):
        raise KeyboardInterrupt
    return detokenizer


def _write(session: "Session", terminal: Terminal, text: TextFlags, prompt: str, reverse: list[str]) -> None:
    """The prompt, then the model's words, until something ends them."""
    from powerinfer_cli.commands.session import Stop

    detokenizer = _start(session, terminal, text, prompt)
    stop = session.generate(text.n_predict, detokenizer, terminal.text, reverse)
    terminal.end_line()
    terminal.note(_why(stop, session))
    if stop is Stop.INTERRUPT:
        raise KeyboardInterrupt


def _why(stop: "Stop", session: "Session") -> str:
    from powerinfer_cli.commands.session import Stop

    if stop is Stop.CONTEXT:
        return f"[context full: {session.engine.n_ctx} tokens; give a larger -c, or --ctx-shift to go on]"
    return f"[{stop}]"
