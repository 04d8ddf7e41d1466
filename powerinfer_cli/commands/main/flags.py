"""The flags of `powerinfer main` beside those that several commands share."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from powerinfer_cli.commands.shared.command_app import Command
from powerinfer_cli.system.consoles import shows_colours

__all__ = ["InteractionFlags", "MainCommand", "TextFlags"]


class Color(StrEnum):
    """Whether the text is coloured; `auto`: at a terminal."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"

    @property
    def wanted(self) -> bool:
        return self is not Color.OFF and (shows_colours(sys.stdout) or self is Color.ON)


_COLOR = ("-co", "--color")


def _text(*names: str, help: str, metavar: str | None = None, callback: Any = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, callback=callback, rich_help_panel="Text")


def _chat(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Interaction")


def _instead_of(other: str) -> Callable[[typer.Context, Any], Any]:
    """A callback for a flag that replaces another one, if it comes later. (Flags are handled in the order given.)"""

    def replace(context: typer.Context, value: Any) -> Any:
        if value is not None and other in context.params:
            context.params[other] = None
        return value

    return replace


@dataclass(frozen=True)
class TextFlags:
    """What to write, how much of it, and what is shown."""

    prompt: Annotated[
        str | None,
        _text(
            "-p",
            "--prompt",
            metavar="TEXT",
            callback=_instead_of("file"),
            help="Text to continue; without, what is piped in.",
        ),
    ] = None
    file: Annotated[
        Path | None,
        _text(
            "-f",
            "--file",
            metavar="FILE",
            callback=_instead_of("prompt"),
            help="The same, from a file; -: standard input. Of -p and -f, the later counts.",
        ),
    ] = None
    n_predict: Annotated[
        int, _text("-n", "--n-predict", "--predict", metavar="N", help="Tokens to write; -1: until the text ends.")
    ] = -1
    keep: Annotated[
        int, _text("--keep", metavar="N", help="Prompt tokens to keep when the context shifts; -1: all.")
    ] = 0
    context_shift: Annotated[
        bool | None,
        _text(
            "--ctx-shift/--no-ctx-shift",
            "--context-shift/--no-context-shift",
            help="Full context: drop the oldest half, go on; a chat drops its oldest turns without it, too.",
        ),
    ] = None
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
    color: Annotated[
        Color, _text(*_COLOR, help="Colour the prompt and what you type; without a value: auto, at a terminal.")
    ] = Color.OFF
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
        bool | None,
        _chat(
            "-cnv/-no-cnv",
            "--conversation/--no-conversation",
            help="A chat by the model's template; at a terminal also without a prompt, if the model has one.",
        ),
    ] = None
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


class MainCommand(Command):
    """Lets --color stand alone: Typer has no flags whose value may be left out. Knows where a prompt belongs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_color_values(args))

    def advice(self, words: str, params: dict[str, Any]) -> str:
        if words.endswith(".gguf"):
            return super().advice(words, params)
        if params.get("prompt"):
            return f"unexpected '{words}': a text of several words needs quotes, as -p \"{params['prompt']} {words}\""
        return f"unexpected '{words}': use -p \"{words}\""


def _with_color_values(args: Sequence[str]) -> list[str]:
    """A --color that is the last word, or that another flag follows, gets `auto`."""
    following = [*args, "-"][1:]
    return [
        f"{arg}={Color.AUTO}" if arg in _COLOR and behind.startswith("-") else arg
        for arg, behind in zip(args, following, strict=True)
    ]
