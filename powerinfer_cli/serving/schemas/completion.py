"""What /completion and OpenAI's /v1/completions take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from powerinfer_cli.serving.compiling import with_grammars
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.prompts import Prompt, is_costly, tokenize_prompts
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask
from powerinfer_cli.serving.threads import in_thread

from .fields import Switch
from .sampling import SamplingFields, copies_of
from .size import check_size

__all__ = ["CompletionRequest", "Job", "TextCompletionRequest", "prepare"]


class CompletionRequest(SamplingFields):
    """Text to go on with, in llama-server's own form."""

    prompt: Prompt


class TextCompletionRequest(CompletionRequest):
    """The same in OpenAI's; llama-server's fields are known here as well."""

    model: str | None = Field(None, description="any: one model is served")
    echo: Switch | None = None
    suffix: str | None = None
    best_of: int | None = None

    def check(self) -> None:
        """APIError 400 for what would be left out of an answer without a word."""
        if self.suffix:
            raise invalid_request("Field 'suffix': is not supported here; /infill writes what stands between two texts")
        if self.best_of is not None and self.best_of != self.copies:
            raise invalid_request("Field 'best_of': is not supported; n texts are written, and all are told")
        if self.echo and self.probs():
            raise invalid_request("Field 'echo': the probabilities of a prompt are not told; leave one of them out")


@dataclass(frozen=True)
class Job:
    """The tasks of a request: `copies` for each prompt, side by side."""

    tasks: Sequence[CompletionTask]
    copies: int = 1


async def prepare(
    fields: SamplingFields, prompt: Any, service: Service, *, label: str = "completion", most: int | None = None
) -> Job:
    """Tokenize, and make the tasks; away from the event loop where that takes long. Raises APIError 400.

    most: tasks in one request; by default as many as slots and queue can hold.
    """
    if most is None:
        most = service.options.queue + service.model.n_slots
    texts = [prompt, fields.logit_bias, fields.preserved_tokens]
    if fields.grammar or fields.json_schema is not None:
        return await with_grammars(lambda: _prepare(fields, prompt, service, label, most))
    if is_costly(texts):
        return await in_thread(_prepare, fields, prompt, service, label, most)
    return _prepare(fields, prompt, service, label, most)


def _prepare(fields: SamplingFields, prompt: Any, service: Service, label: str, most: int) -> Job:
    copies = fields.copies
    if copies > most:
        raise invalid_request(f"Field 'n': must be at most {most}, got {copies}")
    prompts = tokenize_prompts(prompt, service.model.tokenizer, most=most // copies)
    task = fields.task((), service, label=label)
    name = "n_probs" if fields.n_probs is not None else "logprobs"
    check_size(task, prompts, copies, service, field=name, grammar=fields.grammar)
    variants = copies_of(task, copies)
    return Job([replace(task, prompt=ids) for ids in prompts for task in variants], copies)
