"""`main -i`, `-if` and `-ins`: the model writes, the user takes over, and back, in one growing text."""

from collections.abc import Callable
from dataclasses import dataclass

from powerinfer_cli.commands.line_input import LineReader
from powerinfer_cli.commands.session import Session, Stop
from powerinfer_cli.commands.terminal import Terminal
from powerinfer_cli.text import StreamingDetokenizer

__all__ = ["TurnOptions", "take_turns"]

# Stanford Alpaca's instruction format.
INSTRUCTION, RESPONSE = "\n\n### Instruction:\n\n", "\n\n### Response:\n\n"


@dataclass(frozen=True)
class TurnOptions:
    """How turns go. `n_predict` limits each of the model's turns; negative: no limit."""

    n_predict: int
    reverse_prompts: list[str]
    in_prefix: str
    in_suffix: str
    in_prefix_bos: bool
    listen_first: bool
    instruct: bool
    multiline: bool
    simple_io: bool
    special: bool
    unescape: Callable[[str], str]


def take_turns(session: Session, terminal: Terminal, detokenizer: StreamingDetokenizer, options: TurnOptions) -> None:
    """Until the input ends, or a Ctrl-C while the user has the word."""
    reader = LineReader(terminal, multiline=options.multiline, simple=options.simple_io)
    reverse = [*options.reverse_prompts, *(["### Instruction:"] if options.instruct else [])]
    terminal.note("Ctrl-C interrupts the model; Ctrl-C or Ctrl-D at the prompt ends. \\ at a line's end goes on.")
    listening = options.listen_first
    while True:
        if not listening:
            stop = session.generate(options.n_predict, detokenizer, terminal.text, reverse)
            if stop is Stop.CONTEXT:
                terminal.end_line()
                terminal.note(f"[context full: {session.engine.n_ctx} tokens; give a larger -c, or --ctx-shift]")
                return
            if stop in (Stop.END, Stop.INTERRUPT):
                terminal.end_line()
            if stop is Stop.END and options.reverse_prompts and not options.instruct:
                # The text ended before the user's cue: write the cue, as a reverse prompt asks for.
                _add(session, terminal, options.reverse_prompts[0])
        listening = False
        if not _listen(session, terminal, reader, options):
            return


def _listen(session: Session, terminal: Terminal, reader: LineReader, options: TurnOptions) -> bool:
    """Take the user's words into the text. False where there are no more."""
    if options.in_prefix and not options.instruct:
        terminal.text(options.in_prefix)
    words = reader.read("> " if options.instruct or not options.in_prefix else "")
    if words is None:
        return False
    tokenizer = session.tokenizer
    ids = [tokenizer.bos_id] if options.in_prefix_bos and tokenizer.bos_id is not None else []
    before, after = options.in_prefix, options.in_suffix
    if options.instruct:
        before, after = INSTRUCTION, RESPONSE
    elif words and after:
        terminal.text(after)
    if words:
        ids += tokenizer.encode(before, add_special=False, parse_special=True)
        ids += tokenizer.encode(options.unescape(words), add_special=False, parse_special=False)
        ids += tokenizer.encode(after, add_special=False, parse_special=True)
    if ids and not session.feed(ids):
        terminal.note("[interrupted]")
    return True


def _add(session: Session, terminal: Terminal, text: str) -> None:
    terminal.text(text)
    session.feed(session.tokenizer.encode(text, add_special=False, parse_special=True))
