"""Answers of chats in OpenAI's words."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from powerinfer_cli.serving.chat.deltas import Answer, ArgumentsDelta, CallStart, ContentDelta, Delta, ReasoningDelta
from powerinfer_cli.serving.chat.parser import AnswerParser
from powerinfer_cli.serving.chat.plan import ChatPlan
from powerinfer_cli.serving.http.parts import each
from powerinfer_cli.serving.http.replies import Outcome
from powerinfer_cli.serving.http.sse import DONE, sse
from powerinfer_cli.serving.schemas.chat import ChatRequest
from powerinfer_cli.serving.tasks import Event, Finished, PromptProgress, Stop, TextPiece, TokenChances

from .probs import told
from .timings import SYSTEM_FINGERPRINT, completion_id, progress_fields, timings_body, usage_body

__all__ = ["ChatAnswer", "Verbose", "finish_reason", "read_whole", "usage_of"]

Verbose: TypeAlias = Callable[[int, Finished, Outcome], Any]


class ChatAnswer:
    """The answer to one request, whole or in chunks."""

    def __init__(self, request: ChatRequest, plan: ChatPlan, model: str, verbose: Verbose | None = None) -> None:
        """verbose: tells more of how an answer came about."""
        self._request, self._plan, self._model, self._verbose = request, plan, model, verbose
        self._id, self._created = completion_id(), int(time.time())
        self._choices = [_Choice(AnswerParser(plan.parser)) for _ in plan.tasks]
        self._finished: dict[int, Finished] = {}

    def write(self, index: int, event: Event) -> bytes:
        """One event of a stream."""
        if isinstance(event, PromptProgress):
            return self._progress(index, event)
        if isinstance(event, TextPiece):
            return self._piece(index, event)
        return self._last(index, event) if isinstance(event, Finished) else b""

    def end(self) -> bytes:
        """After the last event."""
        chunks = b""
        if self._request.include_usage:
            first = self._finished[min(self._finished)]
            usage = {"choices": [], "usage": usage_of(self._finished), "timings": timings_body(first.timings)}
            chunks = sse({**self._head("chat.completion.chunk"), **usage})
        return chunks + DONE

    def whole(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """All at once."""
        finished = {i: outcome.finished for i, outcome in enumerate(outcomes) if outcome.finished is not None}
        body = {
            **self._head("chat.completion"),
            "choices": each(lambda one: self._whole_choice(one[0], outcomes[one[0]], one[1]), [*finished.items()]),
            "usage": usage_of(finished),
            "timings": timings_body(finished[0].timings),
        }
        if self._verbose is not None:
            body["__verbose"] = self._verbose(0, finished[0], outcomes[0])
        return body

    def _whole_choice(self, index: int, outcome: Outcome, finished: Finished) -> dict[str, Any]:
        answer = read_whole(self._plan, outcome)
        choice = {"index": index, "message": _message(answer), "finish_reason": finish_reason(finished, answer)}
        if outcome.chances:
            choice["logprobs"] = self._logprobs(outcome.chances)
        return choice

    def _progress(self, index: int, event: PromptProgress) -> bytes:
        progress = progress_fields(event, bool(self._request.timings_per_token))
        *opening, last = self._opening(index) or [self._chunk(index, {})]
        return b"".join(map(sse, [*opening, {**last, **progress}]))

    def _opening(self, index: int) -> list[dict[str, Any]]:
        """What a stream begins with, once."""
        choice = self._choices[index]
        if choice.opened:
            return []
        choice.opened = True
        first = self._chunk(index, {"role": "assistant", "content": None})
        return [first, *self._deltas(index, self._plan.begun)]

    def _piece(self, index: int, piece: TextPiece) -> bytes:
        choice = self._choices[index]
        opening = self._opening(index)
        choice.chances += piece.chances
        chunks = self._deltas(index, choice.parser.push(piece.text))
        if chunks and self._request.timings_per_token:
            chunks[-1]["timings"] = timings_body(piece.timings)
        return b"".join(map(sse, opening + chunks))

    def _deltas(self, index: int, deltas: Sequence[Delta]) -> list[dict[str, Any]]:
        """A chunk for each, the tokens' probabilities with the last."""
        choice = self._choices[index]
        choice.answer.add(deltas)
        chunks = [self._chunk(index, _delta(delta)) for delta in deltas]
        if chunks and choice.chances:
            chunks[-1]["choices"][0]["logprobs"] = self._logprobs(choice.chances)
            choice.chances = []
        return chunks

    def _last(self, index: int, finished: Finished) -> bytes:
        choice = self._choices[index]
        self._finished[index] = finished
        chunks = self._opening(index) + self._deltas(index, choice.parser.finish())
        if choice.chances:  # of text that was never told, such as a stop string's
            chunks.append(self._chunk(index, {}))
            chunks[-1]["choices"][0]["logprobs"] = self._logprobs(choice.chances)
        last = self._chunk(index, {}, finish_reason(finished, choice.answer))
        if not self._request.include_usage:
            last["timings"] = timings_body(finished.timings)
        if self._verbose is not None:
            last["__verbose"] = self._verbose(index, finished, Outcome())
        return b"".join(map(sse, [*chunks, last]))

    def _logprobs(self, chances: Sequence[TokenChances]) -> dict[str, Any]:
        return {"content": told(chances, bool(self._request.post_sampling_probs))}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


class _Choice:
    """One of n answers of a stream."""

    def __init__(self, parser: AnswerParser) -> None:
        self.parser = parser
        self.answer = Answer()
        self.chances: list[TokenChances] = []
        self.opened = False


def read_whole(plan: ChatPlan, outcome: Outcome) -> Answer:
    """An answer that is all there."""
    parser, answer = AnswerParser(plan.parser), Answer()
    answer.add([*plan.begun, *parser.push(outcome.text)])
    answer.add(parser.finish())
    return answer


def finish_reason(finished: Finished, answer: Answer) -> str:
    """OpenAI's word."""
    if finished.stop is Stop.LIMIT:
        return "length"
    return "tool_calls" if answer.calls else "stop"


def usage_of(finished: Mapping[int, Finished]) -> dict[str, Any]:
    """The prompt counts once, however many answers it has."""
    first = finished[min(finished)]
    n_predicted = sum(one.timings.predicted_n for one in finished.values())
    return usage_body(first.n_prompt, n_predicted, first.timings.cache_n)


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return message


def _delta(delta: Delta) -> dict[str, Any]:
    match delta:
        case ContentDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case CallStart(index, id_, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": id_, "type": "function", "function": function}]}
        case ArgumentsDelta(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
