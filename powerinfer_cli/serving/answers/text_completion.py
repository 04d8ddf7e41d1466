"""Completed text in OpenAI's words."""

import time
from collections.abc import Sequence
from typing import Any

from powerinfer_cli.serving.http.parts import each
from powerinfer_cli.serving.http.replies import Outcome
from powerinfer_cli.serving.http.sse import DONE, sse
from powerinfer_cli.serving.prompts import prompt_list
from powerinfer_cli.serving.schemas.completion import Job, TextCompletionRequest
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import Event, Finished, PromptProgress, Stop, TextPiece, Timings

from .probs import completion_logprobs
from .timings import SYSTEM_FINGERPRINT, completion_id, progress_fields, timings_body, usage_body

__all__ = ["TextCompletionAnswer"]


class TextCompletionAnswer:
    """The answer to one request of /v1/completions, whole or in chunks."""

    def __init__(self, request: TextCompletionRequest, job: Job, service: Service) -> None:
        self._request, self._job, self._service = request, job, service
        self._id, self._created = completion_id(), int(time.time())
        self._offsets = [0] * len(job.tasks)  # characters sent, by choice
        self._finished: dict[int, Finished] = {}

    def write(self, index: int, event: Event) -> bytes:
        """One event of a stream. An echoed prompt comes with the first."""
        echoed = self._echo(index) if not self._offsets[index] else ""
        if isinstance(event, TextPiece):
            logprobs = self._logprobs(event.chances, index, self._offsets[index])
            self._offsets[index] += len(echoed) + len(event.text)
            chunk = self._chunk(index, echoed + event.text, logprobs, None)
            if self._request.timings_per_token:
                chunk["timings"] = timings_body(event.timings)
            return sse(chunk)
        if isinstance(event, PromptProgress):
            progress = progress_fields(event, bool(self._request.timings_per_token))
            return sse({**self._chunk(index, "", None, None), **progress})
        if isinstance(event, Finished):
            return sse(self._last(index, echoed, event))
        return b""

    def end(self) -> bytes:
        """After the last event."""
        if not self._request.include_usage:
            return DONE
        return sse({**self._head(), "choices": [], "usage": self._usage(self._finished)}) + DONE

    def whole(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """All at once."""
        finished = {i: outcome.finished for i, outcome in enumerate(outcomes) if outcome.finished is not None}

        def choice(i: int) -> dict[str, Any]:
            logprobs = self._logprobs(outcomes[i].chances, i, 0)
            return self._choice(i, self._echo(i) + outcomes[i].text, logprobs, finish_reason(finished[i]))

        return {
            **self._head(),
            "choices": each(choice, [*finished]),
            "usage": self._usage(finished),
            "timings": timings_body(finished[0].timings),
        }

    def _last(self, index: int, text: str, finished: Finished) -> dict[str, Any]:
        self._finished[index] = finished
        chunk = self._chunk(index, text, None, finish_reason(finished))
        # Either here, as llama-server tells it, or in a chunk of its own, as OpenAI does for those who ask.
        if not self._request.include_usage:
            chunk["usage"] = self._usage({index: finished})
        return {**chunk, "timings": timings_body(finished.timings)}

    def _chunk(self, index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        return {**self._head(), "choices": [self._choice(index, text, logprobs, finish)]}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._service.model.name,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    @staticmethod
    def _choice(index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, chances: Sequence[Any], index: int, offset: int) -> dict[str, Any] | None:
        return completion_logprobs(chances, self._job.tasks[index].post_sampling_probs, offset)

    def _usage(self, finished: dict[int, Finished]) -> dict[str, Any]:
        """A prompt counts once, however many texts were written for it."""
        firsts: dict[int, tuple[int, Timings]] = {}
        for index in sorted(finished):
            prompt = len(self._job.tasks[index].prompt)
            firsts.setdefault(index // self._job.copies, (prompt, finished[index].timings))
        return usage_body(
            sum(n for n, _ in firsts.values()),
            sum(one.timings.predicted_n for one in finished.values()),
            sum(timings.cache_n for _, timings in firsts.values()),
        )

    def _echo(self, index: int) -> str:
        if not self._request.echo:
            return ""
        prompt = prompt_list(self._request.prompt)[index // self._job.copies]
        if isinstance(prompt, str):
            return prompt
        return self._service.model.tokenizer.decode(self._job.tasks[index].prompt)


def finish_reason(finished: Finished) -> str:
    """OpenAI's word."""
    return "length" if finished.stop is Stop.LIMIT else "stop"
