"""What a client may do. Each returns what was wrong with the server's answer, or "" if nothing was."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from scripts.clients.http import Answer, ask, events, head, whole_answer

__all__ = ["BEHAVIOURS", "Reference", "references"]

PROMPTS = (
    "Once upon a time, there was a little fox",
    "One day a whale and a crab",
    "The owl said to the rabbit that",
    "In a village by the sea lived a baker",
    "Rosa wanted to find the lost key, but",
    "It was raining when the bear came home",
)
N_PREDICT = 24
OVERSIZE = 3 << 20  # just over the default limit
READ_SLOWLY_S = 0.3


@dataclass(frozen=True)
class Reference:
    """A greedy request, and what it is answered when nobody else is there."""

    prompt: str
    completion: str
    chat: str


Behaviour: TypeAlias = Callable[[int, Sequence[Reference], random.Random], Awaitable[str]]


def completion_body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "n_predict": N_PREDICT, "temperature": 0, **more}


def chat_body(prompt: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "soak", "messages": messages, "max_tokens": N_PREDICT, "temperature": 0, **more}


def refused(answer: Answer, status: int) -> str:
    """The answer must be this status with an error's body."""
    if answer.status != status:
        return f"status {answer.status}, not {status}: {answer.body[:150]!r}"
    return "" if answer.json()["error"]["code"] == status else f"not an error's body: {answer.body[:150]!r}"


def same(answer: Answer, wanted: str, text: Callable[[Answer], str]) -> str:
    """The answer must be 200 and this text."""
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:150]!r}"
    found = text(answer)
    return "" if found == wanted else f"another text: {found!r}, not {wanted!r}"


def streamed_completion(answer: Answer) -> str:
    return "".join(json.loads(event)["content"] for event in events(answer.body) if event != b"[DONE]")


def streamed_chat(answer: Answer) -> str:
    chunks = [json.loads(event) for event in events(answer.body) if event != b"[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def chat_text(answer: Answer) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


async def references(port: int) -> list[Reference]:
    """Each prompt alone. Raises RuntimeError for anything but an answer."""
    found = []
    for prompt in PROMPTS:
        completion = await ask(port, "/completion", completion_body(prompt))
        chat = await ask(port, "/v1/chat/completions", chat_body(prompt))
        if (completion.status, chat.status) != (200, 200):
            raise RuntimeError(f"alone: {completion.body[:200]!r}, {chat.body[:200]!r}")
        found.append(Reference(prompt, completion.json()["content"], chat_text(chat)))
    return found


async def completion(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    one = draw.choice(known)
    if draw.random() < 0.5:
        answer = await ask(port, "/completion", completion_body(one.prompt))
        return same(answer, one.completion, lambda found: str(found.json()["content"]))
    return same(
        await ask(port, "/completion", completion_body(one.prompt, stream=True)), one.completion, streamed_completion
    )


async def chat(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    one = draw.choice(known)
    if draw.random() < 0.5:
        return same(await ask(port, "/v1/chat/completions", chat_body(one.prompt)), one.chat, chat_text)
    return same(await ask(port, "/v1/chat/completions", chat_body(one.prompt, stream=True)), one.chat, streamed_chat)


async def sampled(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    """At random, with a grammar: the text must be JSON of the form asked for."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    body = completion_body(draw.choice(known).prompt, json_schema=schema, temperature=1.5) | {"n_predict": 64}
    answer = await ask(port, "/completion", body)
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:150]!r}"
    try:
        return "" if isinstance(json.loads(answer.json()["content"])["a"], bool) else "not what the schema says"
    except (ValueError, KeyError, TypeError):
        # White space without end fits the schema, too, and may fill all tokens.
        return "" if answer.json().get("stop_type") == "limit" else f"not JSON: {answer.json()['content']!r}"


async def anthropic(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    one = draw.choice(known)
    answer = await ask(port, "/v1/messages", chat_body(one.prompt))
    return same(answer, one.chat, lambda found: "".join(part["text"] for part in found.json()["content"]))


async def embedding(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    answer = await ask(port, "/v1/embeddings", {"input": [one.prompt for one in draw.sample(list(known), 2)]})
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:150]!r}"
    lengths = {len(item["embedding"]) for item in answer.json()["data"]}
    return "" if len(lengths) == 1 and lengths != {0} else f"vectors of {lengths}"


async def tokens(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    """There and back again."""
    text = draw.choice(known).prompt
    ids = (await ask(port, "/tokenize", {"content": text})).json()["tokens"]
    back = (await ask(port, "/detokenize", {"tokens": ids})).json()["content"]
    return "" if back.strip() == text else f"{text!r} came back as {back!r}"


async def look(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    path = draw.choice(["/health", "/props", "/slots", "/metrics", "/v1/models", "/"])
    answer = await ask(port, path)
    return "" if answer.status == 200 and answer.body else f"{path}: status {answer.status}"


async def template(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    answer = await ask(port, "/apply-template", chat_body(known[0].prompt))
    return "" if answer.status == 200 and known[0].prompt in answer.json()["prompt"] else f"{answer.body[:150]!r}"


async def bad_json(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    path = draw.choice(["/completion", "/v1/chat/completions", "/v1/completions", "/tokenize", "/v1/messages"])
    body = draw.choice([b'{"prompt": "a', b"[1, 2", b"\xff\xfe", b'{"prompt": tru}', b"nothing"])
    return refused(await ask(port, path, body), 400)


async def wrong_type(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    path, body = draw.choice(
        [
            ("/completion", {"prompt": {"a": 1}}),
            ("/completion", {"prompt": "a", "n_predict": "many"}),
            ("/v1/chat/completions", {"messages": "hello"}),
            ("/v1/chat/completions", {}),
            ("/tokenize", {"content": {"a": 1}}),
        ]
    )
    return refused(await ask(port, path, body), 400)


async def too_long(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    answer = await ask(port, "/completion", completion_body("a fox and " * 5000))
    return refused(answer, 400)


async def no_route(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    return refused(await ask(port, "/nothing-here", {}), 404)


async def oversize(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    """A body that says that it is larger than the limit: refused before it is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head("POST", "/completion", OVERSIZE) + b'{"prompt": "')
        line = await asyncio.wait_for(reader.readline(), 30)
        return "" if line.split()[1:2] == [b"413"] else f"answered {line!r}"
    finally:
        writer.close()


async def vanish(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    """Go away at any time: before the request is whole, while it waits, in the middle of a stream."""
    body = json.dumps(
        completion_body(draw.choice(known).prompt, stream=draw.random() < 0.5) | {"n_predict": 400}
    ).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        whole = head("POST", "/completion", len(body)) + body
        writer.write(whole[: draw.randrange(1, len(whole))] if draw.random() < 0.2 else whole)
        await writer.drain()
        await asyncio.sleep(draw.random() * 0.3)
    finally:
        writer.transport.abort() if draw.random() < 0.5 else writer.close()
    return ""


async def read_slowly(port: int, known: Sequence[Reference], draw: random.Random) -> str:
    """A stream by small pieces, with pauses: the text must be whole."""
    one = draw.choice(known)
    body = json.dumps(completion_body(one.prompt, stream=True)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=256)
    try:
        writer.write(head("POST", "/completion", len(body)) + body)
        pieces = []
        while piece := await reader.read(512):
            pieces.append(piece)
            await asyncio.sleep(READ_SLOWLY_S * draw.random())
        return same(whole_answer(b"".join(pieces)), one.completion, streamed_completion)
    finally:
        writer.close()


BEHAVIOURS: dict[str, tuple[float, Behaviour]] = {
    "completion": (4, completion),
    "chat": (4, chat),
    "by a JSON schema": (1, sampled),
    "Anthropic message": (1, anthropic),
    "embedding": (1, embedding),
    "tokens": (1, tokens),
    "look": (1, look),
    "template": (0.5, template),
    "bad JSON": (1, bad_json),
    "wrong type": (1, wrong_type),
    "too long a prompt": (0.5, too_long),
    "no such route": (0.5, no_route),
    "oversize body": (0.5, oversize),
    "vanish": (3, vanish),
    "read slowly": (1, read_slowly),
}
