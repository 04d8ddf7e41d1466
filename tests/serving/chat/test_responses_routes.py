"""/v1/responses of a model that writes what a test wants."""

from typing import Any

import pytest

from powerinfer_cli.serving.tasks import CompletionTask
from tests.serving.chat.fake_chat import WEATHER, ask, events

FUNCTION = {"type": "function", **WEATHER["function"]}
TEXT = 'hm</think>\n\nI look.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


def answer_of(body: dict[str, Any], text: str, model: str) -> list[dict[str, Any]]:
    """The items of an answer, which are the same in a stream, whose deltas make them up."""
    body = {"input": "Hello", **body}
    whole = ask(body, text, model=model, path="/v1/responses")[0].json()
    assert (whole["object"], whole["status"], whole["usage"]["output_tokens"]) == ("response", "completed", 2)
    told = events(ask({**body, "stream": True}, text, model=model, path="/v1/responses")[0])
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    assert told[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    texts: dict[str, str] = {}
    for event in told:
        if event["type"].endswith(".delta"):
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
    streamed = told[-1]["response"]["output"]
    assert [event["item"] for event in told if event["type"] == "response.output_item.done"] == streamed
    for item in streamed:
        assert texts[item["id"]] == (item["arguments"] if "arguments" in item else item["content"][0]["text"])
    for item in (*streamed, *whole["output"]):
        del item["id"]
        item.pop("call_id", None)
    assert streamed == whole["output"]
    return list(streamed)


def test_text_thoughts_and_calls() -> None:
    thoughts, text, call = answer_of({"tools": [FUNCTION]}, TEXT, "thinking")
    assert (thoughts["type"], thoughts["content"][0]["text"]) == ("reasoning", "hm")
    assert (text["type"], text["content"][0]["type"], text["content"][0]["text"]) == (
        "message",
        "output_text",
        "I look.",
    )
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city": "Rome"}')
    [text] = answer_of({}, "Hi", "plain")
    assert text["content"][0]["text"] == "Hi"


def test_items_become_messages() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny"},
    ]
    body = {"input": items, "instructions": "Be kind.", "max_output_tokens": 7}
    answer, service = ask(body, model="hermes", path="/v1/responses")
    assert answer.status_code == 200, answer.text
    [task] = service.tasks
    assert isinstance(task, CompletionTask)
    assert task.n_predict == 7
    prompt = service.model.tokenizer.decode(task.prompt)
    assert [prompt.index(text) for text in ("Be kind.", "Hello", "I look.", "Rome", "Sunny")] == sorted(
        prompt.index(text) for text in ("Be kind.", "Hello", "I look.", "Rome", "Sunny")
    )
    counted, _ = ask(body, model="hermes", path="/v1/responses/input_tokens")
    assert counted.json()["input_tokens"] == len(task.prompt)


def test_the_form_of_the_answer() -> None:
    text = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "integer"}}}
    _, service = ask({"input": "Hello", "text": text}, path="/v1/responses")
    [task] = service.tasks
    assert isinstance(task, CompletionTask)
    assert task.constraint is not None


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "'input' is required"),
    ({"input": 3}, "'input'"),
    ({"input": [3]}, "input[0]"),
    ({"input": [{"type": "smell"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "smell"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": ["text"]}]}]}, "content[0].type: unsupported"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "image input is not supported"),
    ({"input": [{"role": "user", "content": [{"type": {}}]}]}, "input[0].content[0].type"),
    ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"input": "a", "tools": {}}, "'tools'"),
    ({"input": "a", "n": 2}, "'n'"),
]


@pytest.mark.parametrize(("body", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named(body: dict[str, Any], message: str) -> None:
    answer, service = ask(body, path="/v1/responses")
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]
    assert not service.tasks
