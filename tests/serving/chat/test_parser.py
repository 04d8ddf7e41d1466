"""What answers are made of: the same however the text is cut, and nothing told that is taken back."""

import itertools
import json

import pytest

from powerinfer_cli.serving.chat.deltas import Answer, ArgumentsDelta, CallStart, Delta
from powerinfer_cli.serving.chat.parser import AnswerParser, ParserOptions
from powerinfer_cli.serving.chat.reasoning import DEFAULT_TAGS
from powerinfer_cli.serving.chat.tool_styles import (
    COMMAND_R,
    FUNCTIONARY,
    GENERIC,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_NAMED,
    ToolStyle,
)

TWO = [("f", '{"a": 1}'), ("g", "{}")]


def options(style: ToolStyle | None, *, thinking: bool = False, inline: bool = False) -> ParserOptions:
    numbers = itertools.count()
    return ParserOptions(
        tags=DEFAULT_TAGS,
        thinking=thinking,
        inline=inline,
        style=style,
        known=frozenset({"f", "g"}),
        new_id=lambda length: f"{next(numbers)}:{length}",
    )


def parse(pieces: list[str], chosen: ParserOptions) -> tuple[Answer, list[Delta]]:
    parser, answer, told = AnswerParser(chosen), Answer(), list[Delta]()
    for piece in pieces:
        told += parser.push(piece)
    told += parser.finish()
    answer.add(told)
    return answer, told


# (text, how it is read, content, thoughts, calls)
CASES: list[tuple[str, dict[str, object], str, str, list[tuple[str, str]]]] = [
    ("hello < world \n", {}, "hello < world \n", "", []),
    ("<think>\nhm hm\n</think>\n\nhi <think> all ", {}, "hi <think> all ", "hm hm", []),
    ("hm\n\nhm\n</think>\n\nhi", {"thinking": True}, "hi", "hm\n\nhm", []),
    ("hm hm < / </thin no end ", {"thinking": True}, "", "hm hm < / </thin no end", []),
    (" <thin", {}, " <thin", "", []),
    (" <think>a</think>\nb", {"inline": True}, " <think>a</think>\nb", "", []),
    ("a </thi</think>\nb", {"inline": True, "thinking": True}, "a </thi</think>\nb", "", []),
    (
        'Sure.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        {"style": HERMES},
        "Sure.",
        "",
        TWO,
    ),
    (
        '<think>\nI will.\n</think>\n\n<tool_call>{"name": "f", "arguments": {"a": "}\\"</tool_call>"}}</tool_call>',
        {"style": HERMES},
        "",
        "I will.",
        [("f", '{"a": "}\\"</tool_call>"}')],
    ),
    ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call> after', {"style": HERMES}, "after", "", TWO[:1]),
    ('<tool_call>{"function": {"name": "f", "arguments": {"a": 1}}}</tool_call>', {"style": HERMES}, "", "", TWO[:1]),
    ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', {"style": HERMES}, "", "", TWO[:1]),
    ('<tool_call>{"name": "g", "arguments": null}</tool_call>', {"style": HERMES}, "", "", TWO[1:]),
    ('<tool_call>{"name": "f", "arguments": {"a": [1, {"b', {"style": HERMES}, "", "", [("f", '{"a": [1, {"b')]),
    ('<tool_call>{"name": "f", "arguments": {}</tool_call>.', {"style": HERMES}, ".", "", [("f", "{}")]),
    (
        'a <tool_call>{"name": "other", "arguments": {}}</tool_call> b ',
        {"style": HERMES},
        'a <tool_call>{"name": "other", "arguments": {}}</tool_call> b ',
        "",
        [],
    ),
    ("a <tool_call> b </tool_call> <tool_ca", {"style": HERMES}, "a <tool_call> b </tool_call> <tool_ca", "", []),
    ('<tool_call>{"name', {"style": HERMES}, '<tool_call>{"name', "", []),
    ('{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', {"style": LLAMA3}, "", "", TWO),
    ('\n{"type": "function", "name": "f", "parameters": {"a": 1}}', {"style": LLAMA3}, "", "", TWO[:1]),
    ('So:<|python_tag|>{"name": "f", "parameters": {"a": 1}}', {"style": LLAMA3}, "So:", "", TWO[:1]),
    ('{"name": "Bob", "age": 5} is JSON', {"style": LLAMA3}, '{"name": "Bob", "age": 5} is JSON', "", []),
    ('no {"name": "f", "parameters": {}}', {"style": LLAMA3}, 'no {"name": "f", "parameters": {}}', "", []),
    (
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "123456789"}, {"name": "g", "arguments": {}}]',
        {"style": MISTRAL},
        "",
        "",
        TWO,
    ),
    (
        'hi[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}',
        {"style": MISTRAL_NAMED},
        "hi",
        "",
        TWO,
    ),
    ("[TOOL_CALLS]h[ARGS]{}", {"style": MISTRAL_NAMED}, "[TOOL_CALLS]h[ARGS]{}", "", []),
    ('<function=f>{"a": 1}</function>\n<function=g>{}</function>', {"style": FUNCTIONARY}, "", "", TWO),
    (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}},\n'
        ' {"tool_call_id": "1", "tool_name": "g", "parameters": {}}\n]<|END_ACTION|>',
        {"style": COMMAND_R},
        "",
        "",
        TWO,
    ),
    (
        '{"response": "a\\n\\"b\\" \\u00e9 \\ud83d\\ude00 \\ud83d x \\q"} ',
        {"style": GENERIC},
        'a\n"b" \u00e9 \U0001f600 \ufffd x \\q',
        "",
        [],
    ),
    ('<think>x</think>{"tool_call": {"name": "f", "arguments": {"a": 1}}}', {"style": GENERIC}, "", "x", TWO[:1]),
    (
        '{"tool_calls": [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]}',
        {"style": GENERIC},
        "",
        "",
        TWO,
    ),
    ('{"tool_call": {"name": "f", "arguments": {"a": ', {"style": GENERIC}, "", "", [("f", '{"a": ')]),
    ("just text", {"style": GENERIC}, "just text", "", []),
    ('{"other": 1}', {"style": GENERIC}, '{"other": 1}', "", []),
]


@pytest.mark.parametrize(("text", "how", "content", "thoughts", "calls"), CASES)
def test_every_style_cut_anywhere(
    text: str, how: dict[str, object], content: str, thoughts: str, calls: list[tuple[str, str]]
) -> None:
    def read(*pieces: str) -> tuple[Answer, list[Delta]]:
        return parse(list(pieces), options(how.get("style"), **{k: v for k, v in how.items() if k != "style"}))  # type: ignore[arg-type]  # as CASES has them

    answer, _ = read(text)
    assert (answer.content, answer.reasoning) == (content, thoughts)
    assert [(call.name, call.arguments) for call in answer.calls] == calls
    assert read(*text)[0] == answer
    for at in range(len(text)):
        for width in (0, 1, 4, 17):
            assert read(text[:at], text[at : at + width], text[at + width :])[0] == answer, (at, width)


def test_calls_are_told_name_first_and_arguments_as_they_come() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "long text"}}</tool_call>'
    _, told = parse(list(text), options(HERMES))
    assert told[0] == CallStart(0, "0:0", "f")
    fragments = [delta.text for delta in told[1:] if isinstance(delta, ArgumentsDelta)]
    assert len(fragments) == len(told) - 1 > 10
    assert json.loads("".join(fragments)) == {"a": "long text"}


def test_text_is_told_at_once_unless_it_may_become_something_else() -> None:
    parser = AnswerParser(options(HERMES))
    told = [bool(parser.push(text)) for text in ("Hello", " ", "world", " <too", "ls>")]
    assert told == [True, False, True, False, True]


def test_mistral_ids_have_nine_letters() -> None:
    answer, _ = parse(['[TOOL_CALLS][{"name": "f", "arguments": {}}]'], options(MISTRAL))
    assert answer.calls[0].id == "0:9"
    real = ParserOptions(tags=DEFAULT_TAGS, style=HERMES, known=frozenset({"f"}))
    ids = {parse(['<tool_call>{"name": "f", "arguments": {}}'], real)[0].calls[0].id for _ in range(3)}
    assert len(ids) == 3
    assert {len(one) for one in ids} == {29}
    assert all(one.startswith("call_") for one in ids)


def test_a_long_call_that_never_says_its_name_is_text() -> None:
    text = '<tool_call>{"x": "' + "a" * 200_000
    for pieces in ([text], [text[i : i + 5000] for i in range(0, len(text), 5000)]):
        answer, _ = parse(pieces, options(HERMES))
        assert answer.content == text
        assert not answer.calls
