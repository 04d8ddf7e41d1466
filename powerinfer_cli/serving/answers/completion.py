"""Completed text in llama-server's own words."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from powerinfer_cli.serving.http.parts import each
from powerinfer_cli.serving.http.replies import Outcome
from powerinfer_cli.serving.http.sse import sse
from powerinfer_cli.serving.prompts import detokenize
from powerinfer_cli.serving.schemas.completion import Job
from powerinfer_cli.serving.schemas.sampling import SamplingFields
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import Event, Finished, PromptProgress, TextPiece

from .probs import told
from .settings import settings_body
from .timings import progress_fields, timings_body

__all__ = ["NativeAnswer", "chosen_fields"]


class NativeAnswer:
    """The answer to one request of /completion or /infill, whole or in parts."""

    def __init__(self, fields: SamplingFields, job: Job, service: Service) -> None:
        self._fields, self._tasks, self._service = fields, job.tasks, service
        self._prompt = lru_cache(1)(lambda ids: detokenize(ids, service.model.tokenizer))  # the same for all copies
        self._new_lines = [False] * len(job.tasks)

    def write(self, index: int, event: Event) -> bytes:
        """One event of a stream."""
        if isinstance(event, TextPiece):
            return sse(self._part(index, event))
        if isinstance(event, PromptProgress):
            progress = progress_fields(event, bool(self._fields.timings_per_token))
            return sse({**self._partial(index, "", [], 0), **progress})
        if isinstance(event, Finished):
            return sse(self._final(index, event, Outcome(), self._new_lines[index]))
        return b""

    def whole(self, outcomes: Sequence[Outcome]) -> Any:
        """All at once: an object for one text, a list for several."""
        bodies = each(lambda index: self._whole(index, outcomes[index]), range(len(outcomes)))
        return bodies[0] if len(bodies) == 1 else bodies

    def _part(self, index: int, piece: TextPiece) -> dict[str, Any]:
        self._new_lines[index] = self._new_lines[index] or "\n" in piece.text
        body = self._partial(index, piece.text, list(piece.tokens), piece.timings.predicted_n)
        if self._fields.timings_per_token:
            body["timings"] = timings_body(piece.timings)
        if piece.chances:
            body["completion_probabilities"] = told(piece.chances, self._tasks[index].post_sampling_probs)
        return body

    def _partial(self, index: int, text: str, tokens: list[int], n_predicted: int) -> dict[str, Any]:
        return {
            "index": index,
            "content": text,
            "tokens": tokens,
            "stop": False,
            "id_slot": -1,  # llama-server tells it at the end
            "tokens_predicted": n_predicted,
            "tokens_evaluated": len(self._tasks[index].prompt),
        }

    def _whole(self, index: int, outcome: Outcome) -> dict[str, Any]:
        assert outcome.finished is not None  # a reply that ends without it has raised
        return self._final(index, outcome.finished, outcome, "\n" in outcome.text)

    def _final(self, index: int, finished: Finished, outcome: Outcome, has_new_line: bool) -> dict[str, Any]:
        task = self._tasks[index]
        body = {
            "index": index,
            "content": outcome.text,
            "tokens": outcome.tokens.tolist() if self._fields.return_tokens else [],
            "id_slot": finished.id_slot,
            "stop": True,
            "model": self._service.model.name,
            "tokens_predicted": finished.timings.predicted_n,
            "tokens_evaluated": len(task.prompt),
            "generation_settings": settings_body(task, self._fields, self._service, finished.seed),
            "prompt": self._prompt(task.prompt),
            "has_new_line": has_new_line,
            "truncated": finished.truncated,
            "stop_type": str(finished.stop) if task.prompt else "none",
            "stopping_word": finished.stopping_word,
            "tokens_cached": finished.tokens_cached,
            "timings": timings_body(finished.timings),
        }
        if outcome.chances:
            body["completion_probabilities"] = told(outcome.chances, task.post_sampling_probs)
        return chosen_fields(body, self._fields.response_fields)


def chosen_fields(body: dict[str, Any], paths: Sequence[str] | None) -> dict[str, Any]:
    """Only the fields that `response_fields` asks for, under the paths ("a/b") by which it does; all for none."""
    if not paths:
        return body
    chosen = {}
    for path in paths:
        found: Any = body
        for key in path.split("/"):
            if not isinstance(found, dict) or key not in found:
                break
            found = found[key]
        else:
            chosen[path] = found
    return chosen
