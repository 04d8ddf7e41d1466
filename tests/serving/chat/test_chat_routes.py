"""/v1/chat/completions and /apply-template of a model that writes what a test wants."""

import math
import re
import threading
from typing import Any

import pytest

from powerinfer_cli.rendering.limits import Cause, RenderingError
from powerinfer_cli.rendering.renderer import Renderer
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.routes.props import template_caps
from powerinfer_cli.serving.tasks import CompletionTask, Stop, TextPiece, TokenChance, TokenChances
from powerinfer_cli.text import Tokenizer
from tests.serving.chat.fake_chat import USER, WEATHER, Script, ask, events, gathered, post, template
from tests.serving.fake_service import FakeService, finished, timings

CALL = '{"name": "weather", "%s": {"city": "Rome"}}'
# (template, what its model writes, content)
ANSWERS = [
    ("hermes", "I look.\n<tool_call>\n" + CALL % "arguments" + "\n</tool_call>", "I look."),
    ("llama3", CALL % "parameters", ""),
    ("mistral", "[TOOL_CALLS][" + CALL % "arguments" + "]", ""),
    ("plain", '{"tool_call": ' + CALL % "arguments" + "}", ""),
]


def task_of(service: FakeService) -> CompletionTask:
    [task] = service.tasks
    assert isinstance(task, CompletionTask)
    return task


def prompt(body: dict[str, Any], model: str = "plain", **changes: Any) -> str:
    answer, _ = ask(body, model=model, path="/apply-template", **changes)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt"])


def refusal(body: dict[str, Any], model: str = "plain") -> str:
    answer, service = ask(body, model=model)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not service.tasks
    return str(answer.json()["error"]["message"])


def message_of(body: dict[str, Any], script: Script | str, model: str) -> tuple[dict[str, Any], str]:
    """(the message, why it ended), which are the same in a stream."""
    body = {"temperature": 0, **body}
    answer, _ = ask(body, script, model=model)
    choice = answer.json()["choices"][0]
    chunks = events(ask({**body, "stream": True}, script, model=model)[0])
    streamed = gathered(chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    for message in (choice["message"], streamed):
        for call in message.get("tool_calls", ()):
            call["id"] = len(call["id"])
    assert streamed == choice["message"]
    return choice["message"], choice["finish_reason"]


def test_an_answer() -> None:
    body = ask({"model": "any", "user": "me", "store": True, "metadata": {"a": "b"}}, "Hello you")[0].json()
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"], body["system_fingerprint"][0]) == ("chat.completion", "fake", "b")
    [choice] = body["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "Hello you"},
        "finish_reason": "stop",
    }
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert body["timings"]["predicted_n"] == body["usage"]["completion_tokens"] == 2
    assert ask({}, Script("Hi", stop=Stop.LIMIT))[0].json()["choices"][0]["finish_reason"] == "length"


def test_a_stream() -> None:
    chunks = events(ask({"stream": True, "stream_options": {"include_usage": True}}, "Hello you")[0])
    first, *middle, last, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert "timings" not in first
    assert [one["choices"][0]["delta"] for one in middle] == [{"content": text} for text in ("Hel", "lo ", "you")]
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert usage["timings"]["predicted_n"] == 2
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    answer, _ = ask({"stream": True, "timings_per_token": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert all("timings" in chunk for chunk in events(answer)[1:])


def test_several_answers() -> None:
    body = ask({"n": 2})[0].json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 4
    chunks = events(ask({"n": 2, "stream": True, "stream_options": {"include_usage": True}})[0])
    for index in (0, 1):
        mine = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["index"] == index]
        assert gathered(mine) == {"role": "assistant", "content": "Hi"}
    assert chunks[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(("model", "text", "content"), ANSWERS, ids=[one[0] for one in ANSWERS])
@pytest.mark.parametrize("width", [1, 2, 7, 1000])
def test_calls_of_tools(model: str, text: str, content: str, width: int) -> None:
    choice = "required" if model == "plain" else "auto"
    message, reason = message_of({"tools": [WEATHER], "tool_choice": choice}, Script(text, width), model)
    assert reason == "tool_calls"
    assert message["content"] == content
    [call] = message["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert call["id"] == (9 if model == "mistral" else 29)


@pytest.mark.parametrize(("model", "text", "content"), ANSWERS, ids=[one[0] for one in ANSWERS])
def test_calls_are_text_where_none_are_wanted(model: str, text: str, content: str) -> None:
    for body in ({}, {"tools": [WEATHER], "tool_choice": "none"}, {"tools": [WEATHER], "parse_tool_calls": False}):
        message, reason = message_of(body, text, model)
        assert (message, reason) == ({"role": "assistant", "content": text}, "stop")


def test_a_template_that_knows_no_tools_is_told_of_them_only_if_one_must_be_called() -> None:
    assert prompt({"tools": [WEATHER]}) == prompt({})
    text = '{"tool_call": {"name": "weather", "arguments": {}}}'
    assert message_of({"tools": [WEATHER]}, text, "plain") == ({"role": "assistant", "content": text}, "stop")


@pytest.mark.parametrize("model", ["plain", "hermes", "llama3", "mistral"])
def test_the_conversation_with_a_tool_goes_on(model: str) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "Sunny"},
    ]
    choice = "required" if model == "plain" else "auto"
    written = prompt({"messages": messages, "tools": [WEATHER], "tool_choice": choice}, model)
    assert '"city": "Rome"' in written
    assert "Sunny" in written
    assert "Tells the weather." in written


@pytest.mark.parametrize("arguments", ['{"a": NaN}', '{"a": -Infinity}', '{"a": [1e400]}', "{'a': 1}"])
def test_calls_whose_arguments_are_not_json_are_refused(arguments: str) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "Sunny"}]
    assert "Failed to parse tool call arguments as JSON" in refusal({"messages": messages}, "hermes")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/apply-template"])
def test_bodies_with_what_is_no_number_are_refused(path: str, number: float) -> None:
    answer, service = ask({"chat_template_kwargs": {"a": number}}, path=path)
    assert answer.status_code == 400, answer.text
    assert not service.tasks


def test_tool_choice_constrains() -> None:
    other = {"type": "function", "function": {"name": "other"}}

    def allowed(choice: Any, text: str) -> bool:
        _, service = ask({"tools": [WEATHER, other], "tool_choice": choice}, model="hermes")
        task = task_of(service)
        assert task.constraint is not None
        constraint, tokenizer = task.constraint(), service.model.tokenizer
        for byte in text.encode():
            token = next(i for i in range(tokenizer.vocab_size) if tokenizer.piece(i) == bytes([byte]))
            if not constraint.allows(token):
                return False
            constraint.accept(token)
        return True

    named = {"type": "function", "function": {"name": "other"}}
    call = '<tool_call>{"name": "weather"'
    assert allowed("auto", "Hello")
    assert not allowed("required", "Hello")
    assert allowed("required", call)
    assert not allowed(named, call)
    assert allowed(named, '<tool_call>{"name": "other"')
    assert task_of(ask({"tools": [WEATHER], "tool_choice": "none"}, model="hermes")[1]).constraint is None


def test_thoughts() -> None:
    text = "hm\n</think>\n\nSo: <think>"
    message, _ = message_of({}, text, "thinking")
    assert message == {"role": "assistant", "content": "So: <think>", "reasoning_content": "hm"}
    for wanted in ("auto", "deepseek"):
        assert message_of({"reasoning_format": wanted}, text, "thinking")[0] == message
    assert message_of({"reasoning_format": "none"}, text, "thinking")[0]["content"] == text
    assert message_of({"chat_template_kwargs": {"enable_thinking": False}}, text, "thinking")[0]["content"] == text
    assert message_of({}, "<think>a</think>b", "plain")[0]["reasoning_content"] == "a"
    assert message_of({}, "no end", "thinking")[0] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "no end",
    }
    assert "Unknown reasoning format" in refusal({"reasoning_format": "loud"})


def test_prompts() -> None:
    assert prompt({}) == "<|user|>Hello<|assistant|>"
    assert prompt({"add_generation_prompt": False}) == "<|user|>Hello"
    assert prompt({"messages": []}) == "<|assistant|>"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt({"messages": [{"role": "developer", "content": parts}, {"role": "odd", "content": None}]}) == (
        "<|system|>a\nb<|odd|><|assistant|>"
    )
    assert prompt({}, "thinking").endswith("<think>\n")
    assert prompt({"reasoning_effort": "none"}, "thinking").endswith("<think>\n</think>")
    off = ServerOptions(template_variables={"enable_thinking": False})
    assert prompt({}, "thinking", options=off).endswith("<think>\n</think>")
    described = prompt({"tools": [WEATHER], "tool_choice": "required"})
    assert described.startswith("<|system|>")
    assert '"name": "weather"' in described
    assert "tool_call" in described
    counted, _ = ask({}, path="/v1/chat/completions/input_tokens")
    assert counted.json()["input_tokens"] > 3


def test_the_last_message_may_be_continued() -> None:
    begun = [USER, {"role": "assistant", "content": "Once"}]
    assert prompt({"messages": begun}) == "<|user|>Hello<|assistant|>Once"
    assert prompt({"messages": begun, "continue_final_message": True, "add_generation_prompt": False}).endswith("Once")
    assert message_of({"messages": begun}, " more", "plain")[0]["content"] == "Once more"
    asked = {"messages": begun, "continue_final_message": True, "add_generation_prompt": False}
    assert message_of(asked, " more", "plain")[0]["content"] == " more"
    assert message_of({**asked, "echo": True}, " more", "plain")[0]["content"] == "Once more"
    whole = ServerOptions(prefill_assistant=False)
    assert prompt({"messages": begun}, options=whole) == "<|user|>Hello<|assistant|>Once<|assistant|>"
    thought = [USER, {"role": "assistant", "content": "", "reasoning_content": "So"}]
    assert prompt({"messages": thought}, "thinking").endswith("<|assistant|><think>\nSo")
    assert message_of({"messages": thought}, " far</think>\n\nDone", "thinking")[0] == {
        "role": "assistant",
        "content": "Done",
        "reasoning_content": "So far",
    }
    assert "2 or more assistant messages" in refusal({"messages": [*begun, begun[1]]})
    assert "both add_generation_prompt" in refusal({"messages": begun, "continue_final_message": True})


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/input_tokens", "/v1/messages/count_tokens", "/v1/responses/input_tokens"]
)
def test_a_long_text_is_counted_beside_the_event_loop(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def encode(*args: Any, **named: Any) -> list[int]:
        threads.append(threading.current_thread())
        return [1, 2, 3]

    monkeypatch.setattr(Tokenizer, "encode", encode)
    answer, _ = ask({"input": "Hello"}, path=path)
    assert answer.json()["input_tokens"] == 3
    assert threads
    assert threading.main_thread() not in threads


def test_what_texts_are_made_of_is_read_once() -> None:
    """However many are wanted: a client chooses both."""
    _, service = ask({"n": 3, "logit_bias": [["Once upon", 1]]})
    biases = [task.sampler.logit_bias for task in service.tasks if isinstance(task, CompletionTask)]
    assert len(biases) == 3
    assert biases[0]
    assert all(one is biases[0] for one in biases)


def test_a_variable_of_the_template_may_have_any_name() -> None:
    taken = {"self": 1, "messages": 2, "add_generation_prompt": 3, "": 4}
    assert prompt({"chat_template_kwargs": taken}) == prompt({})


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "'messages' is required"),
    ({"messages": "text"}, "'messages'"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [{"content": "a"}]}, "messages[0].role"),
    ({"messages": [USER, {"role": "user"}]}, "messages[1] must contain 'content'"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image input is not supported"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ({"tools": {}}, "'tools'"),
    ({"tools": [{"type": "web"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": 1}}]}, "tools[0].function.name"),
    ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    ({"tools": [WEATHER], "grammar": 'root ::= "a"'}, "grammar constraints with tools"),
    ({"tools": [WEATHER], "logprobs": True, "stream": True}, "logprobs"),
    ({"json_schema": {}, "grammar": 'root ::= "a"'}, "both json_schema and grammar"),
    ({"grammar": "root ::= ("}, "grammar"),
    ({"response_format": {"type": "sound"}}, "response_format"),
    ({"response_format": {"type": "json_object", "schema": {"type": "hiccup"}}}, "hiccup"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, "response_format"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "enable_thinking"),
    ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
    ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
]


@pytest.mark.parametrize(("body", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named(body: dict[str, Any], message: str) -> None:
    assert message in refusal(body)


def test_templates_have_their_say() -> None:
    assert refusal({}, "refusing").endswith("I will not")
    assert re.search("too much memory|longer than", refusal({}, "endless"))


def test_hostile_requests_are_refused_or_answered() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    assert ask({"tools": [tool]}, model="hermes")[0].status_code == 200  # its arguments are any object
    schema = {"type": "json_schema", "json_schema": {"schema": deep}}
    assert "nested" in refusal({"response_format": schema}, "hermes")
    loop = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    many = [{"type": "function", "function": {"name": f"f{i}", "parameters": loop}} for i in range(300)]
    half = {"messages": [{"role": "user", "content": "a\ud800b"}]}
    for body in ({"tools": many}, half):
        for model in ("hermes", "plain"):
            assert ask(body, model=model)[0].status_code in (200, 400)
    assert "\ufffd" in prompt(half)


def test_constrained_answers() -> None:
    for body in ({"json_schema": {"type": "integer"}}, {"response_format": {"type": "json_object"}}):
        assert task_of(ask(body)[1]).constraint is not None
    assert task_of(ask({"response_format": {"type": "text"}})[1]).constraint is None
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": "x"}}}}
    assert task_of(ask({**asked, "tools": [WEATHER]}, model="hermes")[1]).constraint is not None


def test_logprobs() -> None:
    def told(_: Any) -> list[Any]:
        chances = [TokenChances(one, (one,)) for one in (TokenChance(1, b"H", -0.5), TokenChance(2, b"i", -0.25))]
        return [*(TextPiece(one.chosen.piece.decode(), (1,), (one,), timings()) for one in chances), finished()]

    body = {"messages": [USER], "logprobs": True, "top_logprobs": 1}
    answer, service = post(body, told)
    assert task_of(service).n_probs == 1
    content = answer.json()["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content] == ["H", "i"]
    assert content[0]["bytes"] == [72]
    assert content[0]["top_logprobs"][0]["logprob"] == -0.5
    chunks = events(post({**body, "stream": True}, told)[0])
    streamed = [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks[1:-1]]
    assert [one[0]["token"] for one in streamed] == ["H", "i"]


def test_what_templates_make_use_of_is_told() -> None:
    hermes, plain = template_caps(template("hermes")), template_caps(template("plain"))
    assert hermes["supports_tools"]
    assert hermes["supports_tool_calls"]
    assert not plain["supports_tools"]
    assert plain["supports_string_content"]
    assert plain["supports_system_role"]


def test_a_process_that_dies_is_not_the_requests_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*anything: Any) -> str:
        raise RenderingError("its process was killed", Cause.PROCESS)

    monkeypatch.setattr(Renderer, "render", dies)
    answer, _ = ask({}, model="plain")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable_error")
