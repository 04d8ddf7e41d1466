"""`powerinfer main -cnv`: what a chat writes, remembers, and survives."""

from dataclasses import replace
from pathlib import Path

import pytest

from powerinfer_cli.commands.main.chat import ChatOptions, Conversation
from powerinfer_cli.commands.main.interactive import TurnOptions
from powerinfer_cli.commands.main.session import Session, open_session
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.text import ChatTemplate
from tests.helpers.main_cli import Result, powerinfer
from tests.helpers.word_model import ANSWER, token_id

ANSWERED = ANSWER + "\n"


def chat(words: str, stdin: str, *args: str) -> Result:
    return powerinfer("main", "-m", words, "-t", "1", "-cnv", *args, stdin=stdin)


def test_answers_alone_go_to_stdout(words: str) -> None:
    result = chat(words, "hello\nwho is there\n")
    assert (result.code, result.out) == (0, ANSWERED * 2)
    result.note(r"^chat template: the model's own$")
    result.note(r"^generation: .* tokens/s$")


def test_empty_lines_are_no_messages(words: str) -> None:
    assert chat(words, "\n  \nhello\n\n").out == ANSWERED


def test_p_is_the_first_message(words: str) -> None:
    result = chat(words, "hello\n", "-p", "one", "--verbose-prompt")
    assert result.out == ANSWERED * 2
    result.note(rf"^ +{token_id('▁one')} -> ' one'$")


def test_single_turn(words: str) -> None:
    assert chat(words, "hello\nhello\n", "-st").out == ANSWERED
    assert chat(words, "hello\n", "-st", "-p", "one").out == ANSWERED


@pytest.mark.parametrize("args", [("-sys", "Be kind"), ("--chat-template", "alpaca"), ("-st",)])
def test_flags_of_a_chat_ask_for_one(words: str, args: tuple[str, ...]) -> None:
    powerinfer("main", "-m", words, "-t", "1", "-n", "1", *args, stdin="hello\n").note(r"^chat template: ")


def test_system_prompt_comes_first(words: str) -> None:
    result = chat(words, "hello\n", "-sys", "fox", "--verbose-prompt")
    listed = [line.split(" -> ")[1] for line in result.err.splitlines() if " -> " in line]
    assert listed[:3] == ["'<s>'", "'<|system|>'", "' fox'"]


def test_prefix_and_suffix_go_around_each_message(words: str) -> None:
    args = ("--in-prefix", "fox ", "--in-suffix", " was", "--verbose-prompt", "--in-prefix-bos")
    result = chat(words, "one\n", *args)
    listed = [line.split(" -> ")[1] for line in result.err.splitlines() if " -> " in line]
    assert listed[2:5] == ["' fox'", "' one'", "' was'"]
    result.note(r"^warning: --in-prefix-bos has no effect here$")


def test_template_by_name_and_file(words: str, tmp_path: Path) -> None:
    chat(words, "hello\n", "-n", "3", "--chat-template", "chatml").note(r"^chat template: built-in chatml$")
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[-1].content }}")
    result = chat(words, "The caf\n", "--chat-template", str(file))
    assert result.out == "é!\n"
    result.note(rf"^chat template: {file}$")


def test_commands(words: str) -> None:
    result = chat(
        words, "/regen\nhello\n/regen\n/stats\n/clear\n/regen\n/nonsense\n/help\n/exit\nhello\n", "--log-disable"
    )
    assert result.out == ANSWERED * 2
    told = [line.split("  ")[0] for line in result.err.splitlines()]
    assert told[0] == "there is no answer yet to write again"
    assert told[1:6] == ["load time:", "prompt:", "generation:", "active neurons:", "peak memory:"]
    assert told[6] == "the conversation is forgotten"
    assert told[7] == "there is no answer yet to write again"
    assert told[8] == "/nonsense is no command; /help lists them"
    assert [line.split(" ")[0] for line in told[9:]] == ["/help", "/clear", "/regen", "/stats", "/exit"]


def test_a_path_is_no_command(words: str) -> None:
    assert chat(words, "/usr/bin is what\n").out == ANSWERED


def test_a_message_that_does_not_fit_is_refused_and_the_chat_goes_on(words: str) -> None:
    result = chat(words, "hello\n" + "one " * 50 + "\nhello\n", "-c", "40")
    assert (result.code, result.out) == (0, ANSWERED * 2)
    result.note(
        r"^error: the message alone has \d+ tokens, but the context holds 40: say less, or start with a larger -c$"
    )
    assert "forgotten" not in result.err


def test_a_template_without_a_system_role_has_its_message_in_the_first_turn(words: str) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template = refusal + "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    assert chat(words, "hello\n", "-sys", "fox", "--chat-template", template).out == ANSWERED


def test_a_template_that_fails_is_an_error_line_and_the_chat_goes_on(words: str) -> None:
    template = "{% if messages|length > 2 %}{{ raise_exception('one turn\nonly') }}{% endif %}<|assistant|>"
    result = chat(words, "hello\nhello\n/clear\nhello\n", "--chat-template", template)
    assert (result.code, result.out) == (0, ANSWERED * 2)
    result.note(r"^error: the chat template \(the command line\) failed: one turn only$")


def test_a_full_context_ends_the_answer_only(words: str) -> None:
    result = chat(words, "time\nhello\n", "-c", "12", "--ignore-eos")
    result.note(r"^\[context full: 12 tokens; /clear, or start with a larger -c\]$")
    assert result.out.count(ANSWER) == 2


@pytest.mark.parametrize("flags", [(), ("--ctx-shift",)])
def test_a_full_context_forgets_the_oldest_turns_and_says_so_once(words: str, flags: tuple[str, ...]) -> None:
    result = chat(words, "one one one\n" * 12, "-c", "40", "-sys", "fox", *flags)
    assert (result.code, result.out) == (0, ANSWERED * 12)
    assert result.err.count("[the context of 40 tokens is full: the oldest turns are forgotten from here on]") == 1
    assert "error" not in result.err


def test_a_chat_may_keep_everything(words: str) -> None:
    result = chat(words, "one one one\n" * 6, "-c", "40", "--no-ctx-shift")
    assert result.out.startswith(ANSWERED)
    result.note(r"^error: the conversation has \d+ tokens, .*: say less, or start .* or without --no-ctx-shift$")
    assert "forgotten" not in result.err


def test_lines_may_go_on(words: str) -> None:
    for stdin, args in (("one\\\nfox\n", ()), ("one\nfox\\\n", ("--multiline-input",)), ("one\nfox/\n", ("-mli",))):
        result = chat(words, stdin, "--verbose-prompt", *args)
        assert result.out == ANSWERED
        result.note(r"-> '\\n'$")


def test_what_is_no_utf8_is_a_message_all_the_same(words: str) -> None:
    result = powerinfer("main", "-m", words, "-t", "1", "-cnv", stdin=b"\xff\xfe\x00\r\n")
    assert (result.code, result.out) == (0, ANSWERED)


def test_reverse_prompt_ends_an_answer(words: str) -> None:
    assert chat(words, "hello\n", "-r", "friend").out == "Hello friend\n"


class Talk:
    """A conversation whose session can be looked into."""

    def __init__(self, model: str, n_predict: int = -1, **sampling: float) -> None:
        engine = EngineOptions(n_ctx=100, n_threads=1)
        self.session: Session = open_session(
            Path(model), engine, SamplerOptions(temp=0.0, **sampling), context_shift=False, events=LoadEvents()
        )
        turns = TurnOptions(
            n_predict=n_predict,
            reverse_prompts=[],
            in_prefix="",
            in_suffix="",
            in_prefix_bos=False,
            instruct=False,
            multiline=False,
            simple_io=True,
            special=False,
            unescape=str,
        )
        options = ChatOptions(system="fox", first="", template=None, n_keep=0, verbose=False, single_turn=False)
        template = ChatTemplate.from_tokenizer(self.session.tokenizer)
        self.conversation = Conversation(self.session, Terminal(color=False, quiet=True), turns, options, template)

    def evaluated(self) -> int:
        return self.session.timings.prompt_tokens

    def history(self) -> list[int]:
        return [int(token) for token in self.session.sampler._history.last(64)]


def test_turns_use_the_context_again(words: str) -> None:
    talk = Talk(words)
    talk.conversation.say("one")
    first = talk.evaluated()
    assert first == len(["<s>", "<|system|>", "fox", "</s>", "<|user|>", "one", "</s>", "<|assistant|>"])
    talk.conversation.say("time")
    # "Hello friend !" is known, though only its first two tokens were evaluated when they were written.
    assert talk.evaluated() - first == len(["!", "</s>", "<|user|>", "time", "</s>", "<|assistant|>"]) - 1


def test_regen_evaluates_one_token(words: str) -> None:
    talk = Talk(words)
    talk.conversation.say("one")
    first = talk.evaluated()
    talk.conversation.command("/regen")
    assert talk.evaluated() - first == 1


def test_penalties_see_each_token_of_the_conversation_once(words: str) -> None:
    talk = Talk(words, penalty_repeat=1.0001)
    talk.conversation.say("one")
    once = talk.history()
    assert once.count(token_id("▁fox")) == once.count(token_id("▁one")) == once.count(token_id("▁friend")) == 1
    talk.conversation.command("/regen")
    assert talk.history() == once
    talk.conversation.command("/clear")
    assert talk.history() == []
    talk.conversation.say("one")
    assert talk.history() == once


def test_a_message_that_fails_leaves_the_conversation_as_it_was(words: str) -> None:
    talk = Talk(words)
    talk.conversation.say("one")
    with pytest.raises(PowerInferError, match="the message alone has"):
        talk.conversation.say("one " * 200)
    before = talk.evaluated()
    talk.conversation.command("/regen")  # of the message that was answered
    assert talk.evaluated() - before == 1


def test_an_answer_goes_on_where_it_has_filled_the_context(words: str) -> None:
    """The oldest turn makes room for it, and the context is then what it would have been without that turn."""
    talk = Talk(words, n_predict=4, ignore_eos=True)
    talk.conversation.say("one " * 12)
    talk.conversation._turns = replace(talk.conversation._turns, n_predict=85)
    talk.conversation.say("time")
    assert talk.evaluated() > 80  # most of the answer once more
    fresh = Talk(words, n_predict=85, ignore_eos=True)
    fresh.conversation.say("time")
    tokens = talk.session.engine.tokens
    start = ["<s>", "<|system|>", "▁fox", "</s>", "<|user|>", "▁time", "</s>", "<|assistant|>", "▁Hello"]
    assert [int(token) for token in tokens[: len(start)]] == [token_id(token) for token in start]
    assert list(tokens) == list(fresh.session.engine.tokens)
    assert talk.history() == fresh.history()
    assert talk.conversation._messages == fresh.conversation._messages
