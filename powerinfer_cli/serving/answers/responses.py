"""Answers of chats as OpenAI's responses."""

import time
from collections.abc import Sequence
from typing import Any

from powerinfer_cli.serving.chat.deltas import Answer, ArgumentsDelta, CallStart, ContentDelta, Delta, ReasoningDelta
from powerinfer_cli.serving.chat.ids import new_id
from powerinfer_cli.serving.chat.parser import AnswerParser
from powerinfer_cli.serving.chat.plan import ChatPlan
from powerinfer_cli.serving.http.replies import Outcome
from powerinfer_cli.serving.http.sse import sse
from powerinfer_cli.serving.schemas.chat import ChatRequest
from powerinfer_cli.serving.tasks import Event, Finished, PromptProgress, TextPiece

from .chat import read_whole
from .timings import progress_fields, timings_body

__all__ = ["ResponsesAnswer"]


class ResponsesAnswer:
    """The answer to one request, whole or as events."""

    def __init__(self, request: ChatRequest, plan: ChatPlan, model: str) -> None:
        self._request, self._plan, self._model = request, plan, model
        self._id, self._created = f"resp_{new_id()}", int(time.time())
        self._parser = AnswerParser(plan.parser)
        self._items = _Items()
        self._number = 0
        self._begun = False

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """All at once."""
        assert outcome.finished is not None  # a reply that ends without it has raised
        items = _Items()
        for delta in _deltas_of(read_whole(self._plan, outcome)):
            items.tell(delta)
        items.close()
        return {**self._final(outcome.finished, items.done), "timings": timings_body(outcome.finished.timings)}

    def write(self, index: int, event: Event) -> bytes:
        """One event of a stream of one task."""
        told = self._begin()
        extra: dict[str, Any] = {}
        if isinstance(event, PromptProgress):
            told.append(("response.in_progress", {"response": self._pending()}))
            extra = progress_fields(event, bool(self._request.timings_per_token))
        elif isinstance(event, TextPiece):
            told += self._tell(self._parser.push(event.text))
            extra = {"timings": timings_body(event.timings)} if self._request.timings_per_token else {}
        elif isinstance(event, Finished):
            told += [*self._tell(self._parser.finish()), *self._items.close()]
            told.append(("response.completed", {"response": self._final(event, self._items.done)}))
            extra = {"timings": timings_body(event.timings)}
        if told:
            told[-1][1].update(extra)
        return b"".join(self._event(kind, fields) for kind, fields in told)

    def _begin(self) -> list[tuple[str, dict[str, Any]]]:
        if self._begun:
            return []
        self._begun = True
        opening = [(f"response.{word}", {"response": self._pending()}) for word in ("created", "in_progress")]
        return opening + self._tell(self._plan.begun)

    def _tell(self, deltas: Sequence[Delta]) -> list[tuple[str, dict[str, Any]]]:
        return [event for delta in deltas for event in self._items.tell(delta)]

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number - 1, **fields}, kind)

    def _pending(self) -> dict[str, Any]:
        head = {"id": self._id, "object": "response", "created_at": self._created, "model": self._model}
        return {**head, "status": "in_progress", "output": []}

    def _final(self, finished: Finished, output: list[dict[str, Any]]) -> dict[str, Any]:
        n_prompt, n_predicted = finished.n_prompt, finished.timings.predicted_n
        return {
            **self._pending(),
            "status": "completed",
            "completed_at": int(time.time()),
            "output": output,
            "usage": {
                "input_tokens": n_prompt,
                "output_tokens": n_predicted,
                "total_tokens": n_prompt + n_predicted,
                "input_tokens_details": {"cached_tokens": finished.timings.cache_n},
            },
        }


def _deltas_of(answer: Answer) -> list[Delta]:
    deltas: list[Delta] = []
    if answer.reasoning:
        deltas.append(ReasoningDelta(answer.reasoning))
    if answer.content:
        deltas.append(ContentDelta(answer.content))
    for index, call in enumerate(answer.calls):
        deltas += [CallStart(index, call.id, call.name), ArgumentsDelta(index, call.arguments)]
    return deltas


Told = list[tuple[str, dict[str, Any]]]


class _Items:
    """The items of an answer: one is open at a time."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None
        self._text = ""

    def tell(self, delta: Delta) -> Told:
        """Events as (type, fields)."""
        match delta:
            case ReasoningDelta(text):
                item = {"id": f"rs_{new_id()}", "type": "reasoning", "summary": [], "content": []}
                return [
                    *self._open({**item, "encrypted_content": ""}),
                    self._more("response.reasoning_text.delta", text),
                ]
            case ContentDelta(text):
                item = {"id": f"msg_{new_id()}", "type": "message", "role": "assistant", "content": []}
                return [*self._open(item), self._more("response.output_text.delta", text)]
            case CallStart(_, id_, name):
                call = {"id": f"fc_{id_}", "type": "function_call", "call_id": id_, "name": name, "arguments": ""}
                return [*self.close(), *self._open(call)]
            case ArgumentsDelta(_, text):
                return [self._more("response.function_call_arguments.delta", text)]

    def _open(self, item: dict[str, Any]) -> Told:
        if self._item is not None and self._item["type"] == item["type"] != "function_call":
            return []
        told = self.close()
        self._item, self._text = item, ""
        told.append(("response.output_item.added", {**self._at(), "item": {**item, "status": "in_progress"}}))
        if item["type"] == "message":
            told.append(("response.content_part.added", {**self._place(), "part": _part("")}))
        return told

    def _more(self, kind: str, text: str) -> tuple[str, dict[str, Any]]:
        self._text += text
        return kind, {**self._place(), "delta": text}

    def _at(self) -> dict[str, Any]:
        return {"output_index": len(self.done)}

    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        place = {**self._at(), "item_id": self._item["id"]}
        return place if self._item["type"] == "function_call" else {**place, "content_index": 0}

    def close(self) -> Told:
        """The open item, if there is one."""
        item, text = self._item, self._text
        if item is None:
            return []
        told: Told = []
        done = {**item, "status": "completed"}
        if item["type"] == "message":
            done["content"] = [_part(text)]
            told.append(("response.output_text.done", {**self._place(), "text": text}))
            told.append(("response.content_part.done", {**self._place(), "part": _part(text)}))
        elif item["type"] == "reasoning":
            done["content"] = [{"type": "reasoning_text", "text": text}]
            told.append(("response.reasoning_text.done", {**self._place(), "text": text}))
        else:
            done["arguments"] = text
            fields = {**self._place(), "name": item["name"], "arguments": text}
            told.append(("response.function_call_arguments.done", fields))
        told.append(("response.output_item.done", {**self._at(), "item": done}))
        self.done.append(done)
        self._item = None
        return told


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
