"""Chats with a model that writes what a test wants, under templates in the shape of public ones."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI

from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.grammar import Grammars
from powerinfer_cli.serving.http.failures import handle_failures
from powerinfer_cli.serving.routes import anthropic, chat, responses
from powerinfer_cli.serving.tasks import CompletionTask, Event, Stop, Task
from powerinfer_cli.text import ChatTemplate
from tests.serving.fake_service import FakeModel, FakeService, bundled_tokenizer, finished, piece

_HEAD = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
_TAIL = "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
_EACH_CALL = "{% for c in m.tool_calls or [] %}"
_TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
_OBJECT = '{"name": "{{ c.function.name }}", "%s": {{ c.function.arguments | tojson }}}'
TEMPLATES = {
    "plain": _HEAD + _TAIL,
    "hermes": _TOOLS + _HEAD + _EACH_CALL + "<tool_call>" + _OBJECT % "arguments" + "</tool_call>{% endfor %}" + _TAIL,
    "llama3": _TOOLS + _HEAD + _EACH_CALL + "<|python_tag|>" + _OBJECT % "parameters" + "{% endfor %}" + _TAIL,
    "mistral": _TOOLS
    + _HEAD
    + "{% if m.tool_calls %}[TOOL_CALLS]{% endif %}"
    + _EACH_CALL
    + _OBJECT % "arguments"
    # as public ones: they refuse the ids of others
    + "{% if c.id|length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}{% endfor %}"
    + _TAIL,
    "thinking": _TOOLS + _HEAD + _EACH_CALL + "<tool_call>" + _OBJECT % "arguments" + "</tool_call>{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% if not enable_thinking %}</think>{% endif %}"
    "{% endif %}",
    "refusing": "{{ raise_exception('I will not') }}",
    "endless": "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USER = {"role": "user", "content": "Hello"}


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], name, bundled_tokenizer())


@cache
def grammars() -> Grammars:
    return grammars_of(bundled_tokenizer())


@dataclass
class ChatModel(FakeModel):
    template: ChatTemplate = field(default_factory=lambda: template("plain"))
    grammars: Any = field(default_factory=grammars)


@dataclass
class Script:
    """What the model writes: `text`, `width` characters at a time."""

    text: str
    width: int = 3
    stop: Stop = Stop.END
    word: str = ""

    def __call__(self, task: Task) -> Iterator[Event]:
        for at in range(0, len(self.text), self.width):
            yield piece(self.text[at : at + self.width], 1)
        assert isinstance(task, CompletionTask)
        yield finished(self.stop, stopping_word=self.word, n_prompt=len(task.prompt))


def ask(
    body: dict[str, Any],
    script: Script | str = "Hi",
    *,
    model: str = "plain",
    path: str = "/v1/chat/completions",
    **changes: Any,
) -> tuple[httpx.Response, FakeService]:
    """The answer to `body`, with a user's message where it has none."""
    script = script if isinstance(script, Script) else Script(script)
    return post({"messages": [USER], **body}, script, model=model, path=path, **changes)


def post(
    body: dict[str, Any],
    script: Callable[[Task], Iterable[Event | None]],
    *,
    model: str = "plain",
    path: str = "/v1/chat/completions",
    **changes: Any,
) -> tuple[httpx.Response, FakeService]:
    """The answer to `body` of the routes alone: the whole application takes longer to make."""
    service = FakeService(script, model=ChatModel(template=template(model)), **changes)
    app = application()
    app.state.service = service

    headers = {"Content-Type": "application/json"}

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post(path, content=json.dumps(body), headers=headers)

    return asyncio.run(main()), service


@cache
def application() -> FastAPI:
    app = FastAPI()
    for router in (chat.router, anthropic.router, responses.router):
        app.include_router(router)
    handle_failures(app)
    return app


def events(answer: httpx.Response) -> list[Any]:
    """The data of a stream's events, without [DONE]."""
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def gathered(chunks: list[Any]) -> dict[str, Any]:
    """The message that a client makes of a stream's deltas."""
    message: dict[str, Any] = {"role": "", "content": ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            _add(message, choice["delta"])
    return message


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key in ("role", "content", "reasoning_content"):
        if delta.get(key):
            message[key] = message.get(key, "") + delta[key]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if "id" in call:
            assert call["index"] == len(calls)
            calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
        else:
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
