"""`main -cnv`: a chat by the model's template, with commands that begin with a slash."""

from collections.abc import Sequence

from powerinfer_cli.commands.interactive import TurnOptions
from powerinfer_cli.commands.line_input import LineReader
from powerinfer_cli.commands.session import Session, Stop
from powerinfer_cli.commands.terminal import Terminal
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import ChatTemplate, StreamingDetokenizer

__all__ = ["chat"]

Message = dict[str, str]

HELP = {
    "/help": "this list",
    "/clear": "forget the conversation, keep the system message",
    "/regen": "answer the last message again",
    "/stats": "speed, active neurons, memory",
    "/exit": "end the chat (Ctrl-D does too)",
}


def chat(
    session: Session,
    terminal: Terminal,
    options: TurnOptions,
    *,
    system: str,
    first: str,
    template: str | None,
    n_keep: int,
    single_turn: bool,
) -> None:
    """Talk until /exit or the end of input. `first` is the user's first message where -p gave one."""
    form = ChatTemplate.from_option(template) if template else ChatTemplate.from_gguf(session.gguf)
    terminal.note(f"chat template: {form.name}")
    terminal.note("Ctrl-C stops an answer. /help lists the commands.")
    conversation = Conversation(session, terminal, options, form=form, system=system, n_keep=n_keep)
    reader = LineReader(terminal, multiline=options.multiline, simple=options.simple_io)
    if first:
        conversation.say(first)
        if single_turn:
            return
    while (line := _listen(reader, terminal)) is not None:
        words = line.strip()
        if words == "/exit":
            return
        if words.startswith("/") and words[1:].isalpha():
            conversation.command(words)
            continue
        if words:
            conversation.say(options.unescape(line))
            if single_turn:
                return


def _listen(reader: LineReader, terminal: Terminal) -> str | None:
    """The next line; Ctrl-C while typing only drops what was typed."""
    while True:
        terminal.end_line()
        try:
            return reader.read()
        except KeyboardInterrupt:
            terminal.note("/exit or Ctrl-D ends the chat")


class Conversation:
    """The messages so far, and the context that holds them."""

    def __init__(
        self,
        session: Session,
        terminal: Terminal,
        options: TurnOptions,
        *,
        form: ChatTemplate,
        system: str,
        n_keep: int,
    ) -> None:
        self._session = session
        self._terminal = terminal
        self._options = options
        self._form = form
        self._n_keep = n_keep
        self._messages: list[Message] = [{"role": "system", "content": system}] if system else []

    def say(self, words: str) -> None:
        """The user's message and the model's answer, which is written as it comes."""
        self._messages.append({"role": "user", "content": self._options.in_prefix + words + self._options.in_suffix})
        try:
            self._answer()
        except PowerInferError as error:
            # The chat goes on without the message that could not be answered.
            self._messages.pop()
            self._terminal.note(f"error: {error}")

    def command(self, words: str) -> None:
        if words == "/help":
            for name, meaning in HELP.items():
                self._terminal.note(f"{name:8} {meaning}")
        elif words == "/stats":
            for line in self._session.report():
                self._terminal.note(line)
        elif words == "/clear":
            self._messages = [message for message in self._messages if message["role"] == "system"]
            self._session.rewind(0)
            self._terminal.note("the conversation is forgotten")
        elif words == "/regen":
            self._regenerate()
        else:
            self._terminal.note(f"{words} is no command; /help lists them")

    def _regenerate(self) -> None:
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self._terminal.note("there is no answer yet to write again")
            return
        self._messages.pop()
        self._answer()

    def _answer(self) -> None:
        session, terminal = self._session, self._terminal
        ids = self._ids()
        session.n_keep = len(ids) if self._n_keep < 0 else min(len(ids), self._n_keep + int(session.tokenizer.add_bos))
        known = _common_prefix(session.engine.tokens, ids[:-1])
        session.rewind(known)
        if not session.feed(ids[known:]):
            self._messages.pop()
            terminal.note("[interrupted]")
            return
        detokenizer = StreamingDetokenizer(session.tokenizer, special=self._options.special, strip_first_space=True)
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            terminal.text(piece)

        stop = session.generate(self._options.n_predict, detokenizer, show, self._options.reverse_prompts)
        terminal.end_line()
        if stop is Stop.CONTEXT:
            terminal.note(f"[context full: {session.engine.n_ctx} tokens; /clear, a larger -c, or --ctx-shift]")
        elif stop is Stop.INTERRUPT:
            terminal.note("[interrupted]")
        self._messages.append({"role": "assistant", "content": "".join(pieces)})

    def _ids(self) -> list[int]:
        """The conversation as tokens. With --ctx-shift, its oldest turns are dropped until it fits."""
        ids = self._render()
        while len(ids) >= self._session.engine.n_ctx:
            start = 1 if self._messages[0]["role"] == "system" else 0
            if not self._session.context_shift or len(self._messages) - start < 3:
                raise PowerInferError(
                    f"the conversation has {len(ids)} tokens, but the context holds {self._session.engine.n_ctx}: "
                    "/clear it, or start with a larger -c" + ("" if self._session.context_shift else " or --ctx-shift")
                )
            del self._messages[start : start + 2]
            self._terminal.note("[the oldest turn is forgotten: the context is full]")
            ids = self._render()
        return ids

    def _render(self) -> list[int]:
        tokenizer = self._session.tokenizer
        text = self._form.render(self._messages, add_generation_prompt=True)
        bos = tokenizer.piece(tokenizer.bos_id, special=True).decode() if tokenizer.bos_id is not None else ""
        # A template that writes the begin-of-text token itself must not get a second one.
        return tokenizer.encode(text, add_special=not (bos and text.startswith(bos)), parse_special=True)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
