"""`main -cnv`: a chat by the model's template, with commands that begin with a slash."""

from dataclasses import dataclass

from powerinfer_cli.commands.main.interactive import TurnOptions
from powerinfer_cli.commands.main.line_input import LineReader
from powerinfer_cli.commands.main.session import Session, Stop
from powerinfer_cli.commands.main.writing import list_tokens
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import common_prefix
from powerinfer_cli.text import ChatTemplate, StreamingDetokenizer
from powerinfer_cli.text.prompt_tails import chat_tails
from powerinfer_cli.text.template_forms import write_chat

__all__ = ["ChatOptions", "Conversation", "chat"]

Message = dict[str, str]

HELP = {
    "/help": "this list",
    "/clear": "forget the conversation, keep the system message",
    "/regen": "answer the last message again",
    "/stats": "speed, active neurons, memory",
    "/exit": "end the chat (Ctrl-D does too)",
}


@dataclass(frozen=True)
class ChatOptions:
    """What a chat has beside turns. `first`: what stands for the user's first line, empty where that is to be read.
    forget: the oldest turns make room where the context is full.
    """

    system: str
    first: str
    template: str | None
    n_keep: int
    verbose: bool
    single_turn: bool
    forget: bool = True


def chat(session: Session, terminal: Terminal, turns: TurnOptions, options: ChatOptions) -> None:
    """Talk until /exit or the end of input. A message that cannot be answered ends only a chat of a single turn."""
    tokenizer = session.tokenizer
    if options.template is None:
        template = ChatTemplate.from_tokenizer(tokenizer)
    else:
        template = ChatTemplate.from_option(options.template, tokenizer)
    terminal.note(f"chat template: {template.origin}")
    terminal.note("Ctrl-C stops an answer. /help lists the commands.")
    conversation = Conversation(session, terminal, turns, options, template)
    reader = LineReader(terminal, multiline=turns.multiline, simple=turns.simple_io, is_command=_is_command)
    line = options.first or _listen(reader, terminal)
    while line is not None and line.strip() != "/exit":
        try:
            if _is_command(line):
                conversation.command(line.strip())
            elif line.strip():
                conversation.say(turns.unescape(line))
                if options.single_turn:
                    return
        except PowerInferError as error:
            if options.single_turn:
                raise
            terminal.end_line()
            terminal.tell(f"error: {' '.join(str(error).split())}")
        line = _listen(reader, terminal)


def _is_command(line: str) -> bool:
    words = line.strip()
    return words.startswith("/") and words[1:].isalpha()


def _listen(reader: LineReader, terminal: Terminal) -> str | None:
    """The next line; Ctrl-C while typing only drops what was typed."""
    while True:
        terminal.end_line()
        try:
            return reader.read()
        except KeyboardInterrupt:
            if not reader.at_terminal:
                raise
            terminal.end_line()
            terminal.tell("/exit or Ctrl-D ends the chat")


class Conversation:
    """The messages so far, and the context that holds them. A turn that fails leaves the messages as they were."""

    def __init__(
        self, session: Session, terminal: Terminal, turns: TurnOptions, options: ChatOptions, template: ChatTemplate
    ) -> None:
        self._session = session
        self._terminal = terminal
        self._turns = turns
        self._options = options
        self._template = template
        self._messages: list[Message] = []
        self._asked: list[Message] = []  # what the answer that is being written answers
        self._n_asked = 0  # its tokens
        self._forgotten = self._told = False
        self._clear()

    def say(self, words: str) -> None:
        """The user's message and the model's answer, which is written as it comes.

        Raises:
            PowerInferError: the template fails, or the conversation does not fit the context.
        """
        content = self._turns.in_prefix + words + self._turns.in_suffix
        self._answer([*self._messages, {"role": "user", "content": content}])

    def command(self, words: str) -> None:
        """What the user asks of the chat itself. Raises what `say` raises."""
        tell = self._terminal.tell
        if words == "/help":
            for name, meaning in HELP.items():
                tell(f"{name:8} {meaning}")
        elif words == "/stats":
            for line in self._session.report():
                tell(line)
        elif words == "/clear":
            self._clear()
            self._session.rewind(0)
            tell("the conversation is forgotten")
        elif words == "/regen":
            if self._messages and self._messages[-1]["role"] == "assistant":
                self._answer(self._messages[:-1])
            else:
                tell("there is no answer yet to write again")
        else:
            tell(f"{words} is no command; /help lists them")

    def _clear(self) -> None:
        system = self._options.system
        self._messages = [{"role": "system", "content": system}] if system else []

    def _answer(self, messages: list[Message]) -> None:
        session, terminal, turns = self._session, self._terminal, self._turns
        self._asked, ids = self._fitted(messages)
        self._n_asked = len(ids)
        session.keep(ids, self._options.n_keep)
        known = session.rewind(common_prefix(session.engine.tokens, ids[:-1]))
        if self._options.verbose:
            terminal.note(f"prompt: {len(ids)} tokens, of which the last {len(ids) - known} are new")
            list_tokens(session, terminal, ids[known:])
        if not session.feed(ids[known:], self._tails(self._asked)):
            terminal.tell("[interrupted]")
            return
        detokenizer = StreamingDetokenizer(session.tokenizer, special=turns.special, strip_first_space=True)
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            terminal.text(piece)

        session.on_full = self._forget_and_go_on if self._options.forget else None
        stop = session.generate(turns.n_predict, detokenizer, show, turns.reverse_prompts)
        self._messages = [*self._asked, {"role": "assistant", "content": "".join(pieces)}]
        terminal.end_line()
        if stop is Stop.CONTEXT:
            terminal.note(f"[context full: {session.engine.n_ctx} tokens; {self._advice('/clear, ')}]")
        elif stop is Stop.INTERRUPT:
            terminal.note("[interrupted]")
        self._tell_what_was_forgotten()

    def _fitted(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """Messages and their tokens, without the oldest turns where an answer would have no room behind them."""
        n_ctx = self._session.engine.n_ctx
        kept, ids = messages, self._encode(messages)
        while self._options.forget and len(ids) + self._room_for_an_answer > n_ctx:
            shorter = self._without_oldest(kept)
            if shorter is None:
                break
            kept, ids = shorter, self._encode(shorter)
        if len(ids) >= n_ctx:
            what = "message alone" if self._options.forget else "conversation"
            raise PowerInferError(
                f"the {what} has {len(ids)} tokens, but the context holds {n_ctx}: {self._advice('say less, ')}"
            )
        self._forgotten |= kept is not messages
        self._tell_what_was_forgotten()
        return kept, ids

    @property
    def _room_for_an_answer(self) -> int:
        most = self._session.engine.n_ctx // 4
        return min(most, self._turns.n_predict) if self._turns.n_predict > 0 else most

    def _without_oldest(self, messages: list[Message]) -> list[Message] | None:
        """A message and its answer less: the template stays right. None where there is but the last message."""
        first = 1 if messages[0]["role"] == "system" else 0
        if len(messages) - first < 3:
            return None
        return messages[:first] + messages[first + 2 :]

    def _forget_and_go_on(self) -> bool:
        """An answer has filled the context: the oldest turns make room for the rest of it."""
        session = self._session
        written = session.engine.tokens[self._n_asked :]
        shorter = self._without_oldest(self._asked)
        while shorter is not None:
            ids = self._encode(shorter)
            if len(ids) + len(written) + self._room_for_an_answer // 2 <= session.engine.n_ctx:
                session.keep(ids, self._options.n_keep)
                self._asked, self._n_asked, self._forgotten = shorter, len(ids), True
                return session.rewrite([*ids, *written])
            shorter = self._without_oldest(shorter)
        return False

    def _tell_what_was_forgotten(self) -> None:
        if self._forgotten and not self._told:
            self._told = True
            n_ctx = self._session.engine.n_ctx
            self._terminal.note(f"[the context of {n_ctx} tokens is full: the oldest turns are forgotten from here on]")

    def _advice(self, first: str) -> str:
        return f"{first}or start with a larger -c" + ("" if self._options.forget else " or without --no-ctx-shift")

    def _tails(self, messages: list[Message]) -> tuple[int, int]:
        prompt = write_chat(self._template, messages)
        return chat_tails(self._template, self._session.tokenizer, prompt, messages)

    def _encode(self, messages: list[Message]) -> list[int]:
        ids = self._session.start_ids(write_chat(self._template, messages))
        if not ids:
            raise PowerInferError(f"the chat template ({self._template.origin}) writes nothing")
        return ids
