"""`main -i`, `-if` and `-ins`: the model writes, the user takes over, and back, in one growing text."""

from collections.abc import Callable
from dataclasses import dataclass

from powerinfer_cli.commands.main.line_input import LineReader
from powerinfer_cli.commands.main.session import Session, Stop
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import StreamingDetokenizer

__all__ = ["TurnOptions", "take_turns"]

# Stanford Alpaca's instruction format.
CUE = "### Instruction:"
INSTRUCTION, RESPONSE = f"\n\n{CUE}\n\n", "\n\n### Response:\n\n"


@dataclass(frozen=True)
class TurnOptions:
    """How turns go. `n_predict` limits each of the model's turns; negative: no limit."""

    n_predict: int
    reverse_prompts: list[str]
    in_prefix: str
    in_suffix: str
    in_prefix_bos: bool
    instruct: bool
    multiline: bool
    simple_io: bool
    special: bool
    unescape: Callable[[str], str]


def take_turns(
    session: Session,
    terminal: Terminal,
    detokenizer: StreamingDetokenizer,
    options: TurnOptions,
    *,
    listen_first: bool,
) -> None:
    """Until the input ends, the context is full, or a Ctrl-C while the user has the word (KeyboardInterrupt)."""
    reader = LineReader(terminal, multiline=options.multiline, simple=options.simple_io)
    cued = False
    if not listen_first:
        stop, cued = _write_turn(session, terminal, detokenizer, options)
        if stop is Stop.CONTEXT:
            return
    while _listen(session, terminal, reader, options, cued=cued):
        stop, cued = _write_turn(session, terminal, detokenizer, options)
        if stop is Stop.CONTEXT:
            return


def _write_turn(
    session: Session, terminal: Terminal, detokenizer: StreamingDetokenizer, options: TurnOptions
) -> tuple[Stop, bool]:
    """The model's turn: why it ended, and whether it ended with the head of the next instruction."""
    reverse = [*options.reverse_prompts, CUE] if options.instruct else options.reverse_prompts
    written: list[str] = []

    def show(piece: str) -> None:
        written.append(piece)
        terminal.text(piece)

    stop = session.generate(options.n_predict, detokenizer, show, reverse)
    if stop is Stop.CONTEXT:
        terminal.end_line()
        terminal.note(f"[context full: {session.engine.n_ctx} tokens; give a larger -c, or --ctx-shift]")
    elif stop in (Stop.END, Stop.INTERRUPT):
        terminal.end_line()
    if stop is Stop.END and options.reverse_prompts and not options.instruct:
        # The text ended before the user's cue: write the cue, as llama.cpp does.
        _add(session, terminal, options.reverse_prompts[0])
    return stop, options.instruct and stop is Stop.REVERSE and CUE in "".join(written)


def _listen(session: Session, terminal: Terminal, reader: LineReader, options: TurnOptions, *, cued: bool) -> bool:
    """Take the user's words into the text. False where there are no more."""
    while True:
        if options.instruct:
            terminal.end_line()
        else:
            terminal.text(options.in_prefix)
        # Where the text goes on in the same line, the user goes on behind it.
        words = reader.read("" if terminal.line else "> ")
        if words is None:
            return False
        if words and not options.instruct:
            terminal.text(options.in_suffix)
        try:
            if session.feed(_ids(session, options, words, cued=cued)):
                return True
            terminal.tell("[interrupted: your words are not in the text]")
        except PowerInferError as error:
            terminal.end_line()
            terminal.tell(f"error: {error}")


def _ids(session: Session, options: TurnOptions, words: str, *, cued: bool) -> list[int]:
    """The user's words and what goes around them; none of it where the word is only passed on."""
    tokenizer = session.tokenizer
    ids = [tokenizer.bos_id] if options.in_prefix_bos and tokenizer.bos_id is not None else []
    if not words:
        return ids
    before, after = options.in_prefix, options.in_suffix
    if options.instruct:
        before, after = ("\n\n" if cued else INSTRUCTION) + before, after + RESPONSE
    ids += tokenizer.encode(before, add_special=False, parse_special=True)
    ids += tokenizer.encode(options.unescape(words), add_special=False, parse_special=False)
    return ids + tokenizer.encode(after, add_special=False, parse_special=True)


def _add(session: Session, terminal: Terminal, text: str) -> None:
    terminal.text(text)
    session.feed(session.tokenizer.encode(text, add_special=False, parse_special=True))
