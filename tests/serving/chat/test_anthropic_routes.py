"""/v1/messages of a model that writes what a test wants."""

import json
from typing import Any

import httpx
import pytest

from powerinfer_cli.serving.tasks import CompletionTask, Stop
from tests.serving.chat.fake_chat import USER, Script, ask, events

TOOL = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object", "properties": {"city": {}}}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


def say(body: dict[str, Any], script: Script | str = "Hi", model: str = "plain") -> httpx.Response:
    return ask(body, script, model=model, path="/v1/messages")[0]


def test_arguments_that_are_not_json_are_none() -> None:
    """A model that no grammar holds may write them."""
    for arguments in ('{"city": NaN}', '{"city": 1e400}', '{"city": '):
        text = '<tool_call>{"name": "weather", "arguments": ' + arguments
        answer = say({"tools": [TOOL]}, text, "hermes")
        assert answer.status_code == 200
        assert [block["input"] for block in answer.json()["content"] if block["type"] == "tool_use"] == [{}]


def blocks_of(told: list[Any]) -> list[dict[str, Any]]:
    """The content blocks that a client makes of a stream's events; checks their order."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in told:
        match event["type"]:
            case "content_block_start":
                assert (event["index"], is_open) == (len(blocks), False)
                blocks.append(dict(event["content_block"]))
                is_open = True
            case "content_block_delta":
                assert (event["index"], is_open) == (len(blocks) - 1, True)
                delta = {key: value for key, value in event["delta"].items() if key != "type"}
                for key, value in delta.items():
                    blocks[-1][key] = blocks[-1].get(key, "") + value
            case "content_block_stop":
                assert (event["index"], is_open) == (len(blocks) - 1, True)
                is_open = False
    assert not is_open
    for block in blocks:
        if "partial_json" in block:
            block["input"] = json.loads(block.pop("partial_json"))
    return blocks


def content_of(body: dict[str, Any], script: Script | str, model: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(content blocks, why it stopped), which are the same in a stream."""
    whole = say(body, script, model).json()
    told = events(say({**body, "stream": True}, script, model))
    assert [event["type"] for event in told][0 :: len(told) - 1] == ["message_start", "message_stop"]
    assert told[0]["message"]["usage"] == {"cache_read_input_tokens": 2, "input_tokens": 3, "output_tokens": 0}
    assert told[-2]["usage"] == {"output_tokens": 2}
    streamed = blocks_of(told)
    for block in [*whole["content"], *streamed]:
        if "id" in block:
            assert block.pop("id").startswith("call_")
    assert streamed == whole["content"]
    stop = {key: whole[key] for key in ("stop_reason", "stop_sequence")}
    assert told[-2]["delta"] == stop
    return streamed, stop


def test_an_answer() -> None:
    body = say({"max_tokens": 5, "model": "any"}).json()
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"cache_read_input_tokens": 2, "input_tokens": 3, "output_tokens": 2},
    }


def test_events_have_names() -> None:
    lines = say({"stream": True}).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_thoughts_text_and_tools() -> None:
    text = f"hm</think>\n\nI look.\n{CALL}\n{CALL}"
    for width in (1, 4, 1000):
        content, stop = content_of({"tools": [TOOL]}, Script(text, width), "thinking")
        assert content == [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}},
            {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}},
        ]
        assert stop == {"stop_reason": "tool_use", "stop_sequence": None}


def test_why_it_stopped() -> None:
    assert content_of({}, Script("a", stop=Stop.LIMIT), "plain")[1]["stop_reason"] == "max_tokens"
    stopped = Script("a", stop=Stop.WORD, word="END")
    assert content_of({"stop_sequences": ["END"]}, stopped, "plain")[1] == {
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
    }


def test_what_is_asked_of_the_engine() -> None:
    body = {"stop_sequences": ["END"], "temperature": 0.5, "top_k": 7, "max_tokens": 9}
    _, service = ask({**body, "tools": [TOOL], "tool_choice": {"type": "any"}}, path="/v1/messages", model="hermes")
    [task] = service.tasks
    assert isinstance(task, CompletionTask)
    assert (task.stop, task.sampler.temp, task.sampler.top_k, task.n_predict) == (("END",), 0.5, 7, 9)
    assert task.constraint is not None
    _, service = ask({"tools": [TOOL], "tool_choice": {"type": "none"}}, path="/v1/messages", model="hermes")
    [task] = service.tasks
    assert isinstance(task, CompletionTask)
    assert (task.constraint, task.n_predict) == (None, 4096)


def test_blocks_become_messages() -> None:
    def count(*messages: Any, **body: Any) -> int:
        answer, service = ask({"messages": messages, **body}, path="/v1/messages/count_tokens", model="hermes")
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["input_tokens"]
        assert not service.tasks
        return int(answer.json()["input_tokens"])

    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Sunny"}]}
    turn = [USER, {"role": "assistant", "content": [use]}]
    assert count(USER) < count(*turn, USER) < count(*turn, {"role": "user", "content": [result]}, USER)
    said = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
    assert count(said) == count(USER) < count(USER, system="Be kind.")
    assert count(USER, system="Be kind.") == count(USER, system=[{"type": "text", "text": "Be kind."}])
    stamped = "x-anthropic-billing-header: cc_version=2; cch=%s;You are"
    assert count(USER, system=stamped % "a5145") == count(USER, system=stamped % "b7777")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "'messages' is required"),
    ({"messages": [3]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].name"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 1}]}]}, "messages[0].content[0]"),
    ({"system": 3}, "system"),
    ({"system": [{"type": "text"}]}, "system[0].text"),
    ({"tools": 3}, "tools"),
    ({"tools": [{"name": "a", "input_schema": 3}]}, "tools[0].input_schema"),
    ({"tools": [TOOL], "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ({"max_tokens": "many"}, "max_tokens"),
]


@pytest.mark.parametrize(("body", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named(body: dict[str, Any], message: str) -> None:
    answer = say(body)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def test_pictures_are_refused_with_the_peers_status() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    for block in (picture, {"type": "tool_result", "tool_use_id": "a", "content": [picture]}):
        answer = say({"messages": [{"role": "user", "content": [block]}]})
        assert answer.status_code == 500
        assert "image input is not supported" in answer.json()["error"]["message"]
