"""Calls come out of a model that writes any token at random, and text may be text."""

import asyncio
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.grammar import Grammars, NewConstraint
from powerinfer_cli.sampling.grammars.json_schema import read_schema
from powerinfer_cli.serving.chat.deltas import Answer
from powerinfer_cli.serving.chat.parser import AnswerParser, ParserOptions
from powerinfer_cli.serving.chat.plan import plan_chat
from powerinfer_cli.serving.chat.reasoning import DEFAULT_TAGS, ThinkTags
from powerinfer_cli.serving.chat.tool_grammar import calls_grammar, schema_grammar
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
from powerinfer_cli.serving.schemas.chat import ChatRequest
from powerinfer_cli.text import ChatTemplate, Tokenizer
from tests.serving.chat.fake_chat import TEMPLATES, USER, WEATHER, ChatModel, Script
from tests.serving.fake_service import FakeService, bundled_metadata, bundled_tokenizer

STYLES = [HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, FUNCTIONARY, COMMAND_R, GENERIC]
SCHEMAS: dict[str, dict[str, Any]] = {
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "note": {"type": "string", "maxLength": 5}},
        "required": ["a"],
    },
    "weather_in": {
        "$defs": {
            "Place": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
        },
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/Place"}},
        "required": ["place"],
    },
}
TOOLS = [(name, read_schema(schema).text) for name, schema in SCHEMAS.items()]


def is_valid(name: str, arguments: Any) -> bool:
    if name == "add":
        return (
            isinstance(arguments["a"], int) and len(arguments.get("note", "")) <= 5 and set(arguments) <= {"a", "note"}
        )
    return arguments in [{"place": {"city": city}} for city in ("Paris", "Rome")]


@cache
def grammars() -> Grammars:
    return grammars_of(bundled_tokenizer())


def grammar(
    style: ToolStyle,
    *,
    required: bool,
    parallel: bool = False,
    thoughts: ThinkTags | None = None,
    thinking: bool = False,
) -> NewConstraint:
    lark = calls_grammar(
        style, TOOLS, bundled_tokenizer(), required=required, parallel=parallel, thoughts=thoughts, thinking=thinking
    )
    return grammars().lark(lark)


def random_text(new: NewConstraint, seed: int) -> str:
    """What a model writes whose logits are all the same."""
    tokenizer, rng, constraint = bundled_tokenizer(), np.random.default_rng(seed), new()
    ids: list[int] = []
    while not constraint.finished:
        token = int(rng.choice(np.flatnonzero(constraint.allowed())))
        constraint.accept(token)
        if token in tokenizer.eog_ids:
            break
        ids.append(token)
        assert len(ids) < 3000
    return b"".join(tokenizer.piece(token, special=True) for token in ids).decode("utf-8", "replace")


def read(text: str, style: ToolStyle, *, thinking: bool = False) -> Answer:
    options = ParserOptions(tags=DEFAULT_TAGS, thinking=thinking, style=style, known=frozenset(SCHEMAS))
    parser, answer = AnswerParser(options), Answer()
    answer.add([*parser.push(text), *parser.finish()])
    return answer


def bytes_as_tokens(text: str) -> Iterator[int]:
    tokenizer = bundled_tokenizer()
    single = {tokenizer.piece(i): i for i in range(tokenizer.vocab_size) if len(tokenizer.piece(i)) == 1}
    return (single[bytes([byte])] for byte in text.encode())


def fits(new: NewConstraint, text: str) -> bool:
    constraint = new()
    for token in bytes_as_tokens(text):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return any(constraint.allows(token) for token in bundled_tokenizer().eog_ids)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_required_call_is_valid_whatever_the_model(style: ToolStyle, parallel: bool) -> None:
    new = grammar(style, required=True, parallel=parallel)
    for seed in range(3):
        answer = read(random_text(new, seed), style)
        assert answer.content == ""
        assert len(answer.calls) >= 1
        assert parallel or len(answer.calls) == 1
        for call in answer.calls:
            assert is_valid(call.name, json.loads(call.arguments))


@pytest.mark.parametrize("style", [style for style in STYLES if style is not GENERIC], ids=lambda style: style.name)
def test_without_need_any_text_will_do_but_a_call_that_has_begun_is_valid(style: ToolStyle) -> None:
    new = grammar(style, required=False)
    required = random_text(grammar(style, required=True), 1)
    before = "" if style.bare else "Let me see.\n"
    assert fits(new, "Hello < there [TOOL")
    assert fits(new, '{"a": 1}')
    assert fits(new, before + required)
    assert not fits(new, before + required.replace("add", "sub").replace("weather_in", "sub"))


def test_a_generic_answer_is_a_call_or_a_text() -> None:
    new = grammar(GENERIC, required=False)
    assert fits(new, '{"response": "Hello"}')
    assert fits(new, '{"tool_call": {"name": "add", "arguments": {"a": 1}}}')
    assert not fits(new, "Hello")


def test_thoughts_come_first() -> None:
    new = grammar(HERMES, required=True, thoughts=DEFAULT_TAGS, thinking=True)
    call = random_text(grammar(HERMES, required=True), 0)
    assert fits(new, f"so < so</think>\n\n{call}")
    assert not fits(new, call)
    maybe = grammar(HERMES, required=True, thoughts=DEFAULT_TAGS, thinking=False)
    assert fits(maybe, call)
    assert fits(maybe, f"<think>so</think>{call}")
    answer = grammars().lark(
        schema_grammar(read_schema({"type": "integer"}), bundled_tokenizer(), DEFAULT_TAGS, thinking=True)
    )
    assert fits(answer, "so</think>\n12")
    assert not fits(answer, "12")


def test_a_control_token_that_opens_calls_is_used_and_seen() -> None:
    metadata = {**bundled_metadata(), "tokenizer.ggml.tokens": list(bundled_metadata()["tokenizer.ggml.tokens"])}
    metadata["tokenizer.ggml.tokens"][259:261] = ["<tool_call>", "</tool_call>"]
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.is_control(259)
    lark = calls_grammar(HERMES, TOOLS, tokenizer, required=True, parallel=False, thoughts=None, thinking=False)
    constraint = grammars_of(tokenizer).lark(lark)()
    assert np.flatnonzero(constraint.allowed()).tolist() == [259]
    maybe = calls_grammar(HERMES, TOOLS, tokenizer, required=False, parallel=False, thoughts=None, thinking=False)
    constraint = grammars_of(tokenizer).lark(maybe)()
    for token in tokenizer.encode("I look. ", add_special=False):
        constraint.accept(token)
    constraint.accept(259)
    assert not constraint.allows(tokenizer.encode("I", add_special=False)[0])
    template = ChatTemplate(TEMPLATES["hermes"], "hermes", tokenizer)
    service = FakeService(Script(""), model=ChatModel(tokenizer=tokenizer, template=template))
    request = ChatRequest.model_validate({"messages": [USER], "tools": [WEATHER]})
    plan = asyncio.run(plan_chat(request, service))
    assert plan.tasks[0].preserved == {259, 260}
