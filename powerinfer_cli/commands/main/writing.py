"""`main` without turns: the prompt, then the model's words, until something ends them."""

from collections.abc import Sequence

from powerinfer_cli.commands.main.session import Session, Stop
from powerinfer_cli.commands.shared.terminal import Style, Terminal
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import StreamingDetokenizer

__all__ = ["list_tokens", "start", "write"]


def start(
    session: Session,
    terminal: Terminal,
    prompt: str,
    *,
    keep: int,
    show: bool,
    verbose: bool,
    special: bool,
) -> StreamingDetokenizer:
    """Show and evaluate the prompt; the detokenizer that goes on where it ends.

    Raises:
        PowerInferError: there is nothing to evaluate, or it does not fit.
        KeyboardInterrupt: Ctrl-C came before its end.
    """
    tokenizer = session.tokenizer
    ids = session.start_ids(prompt)
    if not ids:
        if tokenizer.bos_id is None:
            raise PowerInferError("nothing to continue: give a prompt with -p or -f")
        ids = [tokenizer.bos_id]
    session.keep(ids, keep)
    if len(ids) >= session.engine.n_ctx:
        raise PowerInferError(
            f"the prompt has {len(ids)} tokens, but the context holds {session.engine.n_ctx}: "
            "shorten it, or give a larger -c"
        )
    if verbose:
        terminal.note(f"prompt: {len(ids)} tokens, of which {session.n_keep} are kept when the context shifts")
        list_tokens(session, terminal, ids)
    detokenizer = StreamingDetokenizer(tokenizer, special=special, strip_first_space=True)
    terminal.style(Style.PROMPT)
    for token in ids:
        piece = detokenizer.push(token)
        if show:
            terminal.text(piece)
    terminal.style(Style.PLAIN)
    if not session.feed(ids):
        raise KeyboardInterrupt
    return detokenizer


def list_tokens(session: Session, terminal: Terminal, ids: Sequence[int]) -> None:
    """What --verbose-prompt shows, a token a line."""
    for token in ids:
        piece = session.tokenizer.piece(token, special=True).decode("utf-8", "replace")
        terminal.note(f"{token:6d} -> {piece!r}")
    terminal.note()


def write(
    session: Session,
    terminal: Terminal,
    detokenizer: StreamingDetokenizer,
    n_predict: int,
    reverse_prompts: Sequence[str],
) -> None:
    """Go on after the prompt. Raises KeyboardInterrupt where Ctrl-C ended it."""
    stop = session.generate(n_predict, detokenizer, terminal.text, reverse_prompts)
    terminal.end_line()
    if stop is Stop.CONTEXT:
        terminal.note(f"[context full: {session.engine.n_ctx} tokens; give a larger -c, or --ctx-shift to go on]")
    else:
        terminal.note(f"[{stop}]")
    if stop is Stop.INTERRUPT:
        raise KeyboardInterrupt
