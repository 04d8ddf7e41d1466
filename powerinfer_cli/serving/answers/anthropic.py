"""Answers of chats in Anthropic's words."""

from collections.abc import Sequence
from typing import Any

from powerinfer_cli.json_text import read_json
from powerinfer_cli.serving.chat.deltas import Answer, ArgumentsDelta, CallStart, ContentDelta, Delta, ReasoningDelta
from powerinfer_cli.serving.chat.parser import AnswerParser
from powerinfer_cli.serving.chat.plan import ChatPlan
from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.http.replies import Outcome
from powerinfer_cli.serving.http.sse import sse
from powerinfer_cli.serving.tasks import Event, Finished, Stop, TextPiece, Timings

from .chat import read_whole
from .timings import completion_id

__all__ = ["MessagesAnswer", "messages_error"]


class MessagesAnswer:
    """The answer to one request, whole or as events."""

    def __init__(self, plan: ChatPlan, model: str) -> None:
        self._plan, self._model = plan, model
        self._id = completion_id("msg_")
        self._parser, self._answer = AnswerParser(plan.parser), Answer()
        self._blocks = _Blocks()
        self._begun = False

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """All at once."""
        assert outcome.finished is not None  # a reply that ends without it has raised
        answer, finished = read_whole(self._plan, outcome), outcome.finished
        usage = {**_input_usage(finished.timings), "output_tokens": finished.timings.predicted_n}
        return {**self._head(), "content": _content(answer), **_stop(finished, answer), "usage": usage}

    def write(self, index: int, event: Event) -> bytes:
        """One event of a stream of one task."""
        if isinstance(event, TextPiece):
            return self._begin(event.timings) + self._tell(self._parser.push(event.text))
        if isinstance(event, Finished):
            return self._begin(event.timings) + self._tell(self._parser.finish()) + self._last(event)
        return b""

    def _begin(self, timings: Timings) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        usage = {**_input_usage(timings), "output_tokens": 0}
        message = {**self._head(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", message=message)

    def _tell(self, deltas: Sequence[Delta]) -> bytes:
        self._answer.add(deltas)
        return b"".join(self._blocks.tell(delta) for delta in deltas)

    def _last(self, finished: Finished) -> bytes:
        usage = {"output_tokens": finished.timings.predicted_n}
        delta = _event("message_delta", delta=_stop(finished, self._answer), usage=usage)
        return self._blocks.close() + delta + _event("message_stop")

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model}


class _Blocks:
    """The content blocks of a stream: one is open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._kind = ""

    def tell(self, delta: Delta) -> bytes:
        match delta:
            case ReasoningDelta(text):
                opened = self._open("thinking", thinking="", signature="")
                return opened + self._more("thinking_delta", thinking=text)
            case ContentDelta(text):
                return self._open("text", text="") + self._more("text_delta", text=text)
            case CallStart(_, id_, name):
                return self.close() + self._open("tool_use", id=id_, name=name, input={})
            case ArgumentsDelta(_, text):
                return self._more("input_json_delta", partial_json=text)

    def _open(self, kind: str, **fields: Any) -> bytes:
        if self._kind == kind:
            return b""
        closed = self.close()
        self._index, self._kind = self._index + 1, kind
        return closed + _event("content_block_start", index=self._index, content_block={"type": kind, **fields})

    def _more(self, kind: str, **fields: Any) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def close(self) -> bytes:
        """The open block, if there is one. Thoughts end with a signature, which is empty here."""
        if not self._kind:
            return b""
        signature = self._more("signature_delta", signature="") if self._kind == "thinking" else b""
        self._kind = ""
        return signature + _event("content_block_stop", index=self._index)


def messages_error(error: APIError) -> bytes:
    """What went wrong in a stream."""
    return _event("error", **error.body())


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


def _input_usage(timings: Timings) -> dict[str, int]:
    return {"cache_read_input_tokens": timings.cache_n, "input_tokens": timings.prompt_n}


def _stop(finished: Finished, answer: Answer) -> dict[str, Any]:
    reason = "tool_use" if answer.calls else "end_turn"
    if finished.stop is Stop.LIMIT:
        reason = "max_tokens"
    elif finished.stop is Stop.WORD:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": finished.stopping_word or None}


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.content:
        blocks.append({"type": "text", "text": answer.content})
    for call in answer.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)})
    return blocks


def _input(arguments: str) -> Any:
    """An object in any case; a call that was cut off has none."""
    try:
        read = read_json(arguments)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
