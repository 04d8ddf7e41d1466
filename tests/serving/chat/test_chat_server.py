"""Chats with the bundled model, through the clients that people use."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, AuthenticationError
from openai import BadRequestError, OpenAI

from tests.helpers.server_process import RunningServer
from tests.serving.conftest import USUAL

ASK: Any = [{"role": "user", "content": "Tell me a story about a cat."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}


@pytest.fixture(scope="session")
def anthropic(server: RunningServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=str(server.client.base_url), api_key="any", max_retries=0) as client:
        yield client


def is_valid(arguments: Any) -> bool:
    return len(arguments.pop("city")) <= 10 and isinstance(arguments.pop("days"), int) and not arguments


def test_openai_whole_and_streamed(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(model="any", messages=ASK, max_tokens=24, temperature=0)
    assert whole.choices[0].finish_reason == "length"
    text = whole.choices[0].message.content
    assert text
    assert len(text) > 20
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    streamed, usage = "", None
    for chunk in openai.chat.completions.create(
        model="any", messages=ASK, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert streamed == text
    assert usage is not None
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_openai_logprobs(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="any", messages=ASK, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(one.token for one in logprobs.content) == answer.choices[0].message.content
    assert all(len(one.top_logprobs) == 3 and one.bytes and one.logprob <= 0 for one in logprobs.content)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("temperature", [0, 2])
def test_openai_required_call_of_a_model_that_knows_no_tools(openai: OpenAI, choice: Any, temperature: float) -> None:
    answer = openai.chat.completions.create(
        model="any", messages=ASK, tools=[TOOL], tool_choice=choice, temperature=temperature, seed=3
    )
    [one] = answer.choices
    assert one.finish_reason == "tool_calls"
    assert not one.message.content
    assert one.message.tool_calls is not None
    [call] = one.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert is_valid(json.loads(call.function.arguments))


def test_openai_answer_by_schema(openai: OpenAI) -> None:
    for seed in (1, 2):
        answer = openai.chat.completions.create(
            model="any",
            messages=ASK,
            temperature=2,
            seed=seed,
            response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}},
        )
        assert is_valid(json.loads(answer.choices[0].message.content or ""))


def test_openai_is_told_what_is_wrong(openai: OpenAI) -> None:
    picture: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    with pytest.raises(BadRequestError, match="image input is not supported"):
        openai.chat.completions.create(model="any", messages=picture)
    with pytest.raises(BadRequestError) as failure:
        openai.chat.completions.create(model="any", messages=ASK * 300)
    body: Any = failure.value.body
    assert (body["type"], body["n_ctx"]) == ("exceed_context_size_error", 512)
    assert body["n_prompt_tokens"] > 512


def test_anthropic_whole_and_streamed(anthropic: Anthropic) -> None:
    asked: dict[str, Any] = {"model": "any", "max_tokens": 16, "messages": ASK, "system": "You are kind."}
    greedy = {"temperature": 0}
    whole = anthropic.messages.create(**asked, extra_body=greedy)
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 16)
    assert whole.content[0].type == "text"
    with anthropic.messages.stream(**asked, extra_body=greedy) as stream:
        assert stream.get_final_text() == whole.content[0].text
        usage = stream.get_final_message().usage
    n_prompt = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == n_prompt
    counted = anthropic.messages.count_tokens(model="any", messages=ASK, system="You are kind.")
    assert counted.input_tokens == n_prompt


def test_anthropic_tools(anthropic: Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "any",
        "max_tokens": 300,
        "messages": ASK,
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any"},
    }
    whole = anthropic.messages.create(**asked)
    with anthropic.messages.stream(**asked) as stream:
        for message in (whole, stream.get_final_message()):
            assert message.stop_reason == "tool_use"
            [block] = message.content
            assert block.type == "tool_use"
            assert block.name == "weather"
            assert is_valid(dict(block.input))


def test_a_chat_goes_on_where_it_was(client: httpx.Client) -> None:
    """Later turns read nothing again but what is new."""
    asked: dict[str, Any] = {"messages": ASK, "max_tokens": 8}
    first = client.post("/v1/chat/completions", json=asked).json()
    said = [*ASK, first["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    second = client.post("/v1/chat/completions", json={**asked, "messages": said}).json()
    assert second["timings"]["cache_n"] >= first["usage"]["prompt_tokens"]
    assert second["timings"]["prompt_n"] < 20
    told = client.post("/v1/chat/completions", json={**asked, "verbose": True}).json()["__verbose"]
    assert "Tell me a story about a cat." in told["prompt"]


def test_openai_responses(openai: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "any", "input": ASK, "max_output_tokens": 12, "temperature": 0}
    whole = openai.responses.create(**asked)
    assert whole.id.startswith("resp_")
    assert len(whole.output_text) > 10
    with openai.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == stream.get_final_response().output_text == whole.output_text


def test_anthropics_header_has_the_key(servers: Callable[..., RunningServer]) -> None:
    server = servers(*USUAL, "--api-key", "sesame")
    asked: dict[str, Any] = {"model": "any", "max_tokens": 2, "messages": ASK}
    with Anthropic(base_url=server.url, api_key="sesame", max_retries=0) as client:
        assert client.messages.create(**asked).usage.output_tokens == 2
    with Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as client, pytest.raises(AuthenticationError):
        client.messages.create(**asked)
