"""What a request may not ask for: an answer that is so large that it takes the server's memory, and others' time."""

from collections.abc import Iterable, Sequence

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.http.replies import MOST_CHANCES
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask

__all__ = ["check_size"]

_MOST_UNUSUAL = 1 << 18  # chances: of all tokens of the largest vocabulary, once; a hundred bytes each as JSON
_USUAL_PROBS, _USUAL_TEXTS = 20, 8  # which clients ask for without a thought of how long the text may become
_MOST_BIASES = 1 << 18  # told with every text; every token of a large vocabulary, for one
_MOST_ECHO = 8 << 20  # bytes that are told again with every text
_TOKEN_BYTES = 4
_MOST_STOPS = 1 << 16  # characters, which are looked at with every token


def check_size(
    task: CompletionTask,
    prompts: Sequence[Sequence[int]],
    copies: int,
    service: Service,
    *,
    field: str = "n_probs",
    grammar: str | None = None,
) -> None:
    """APIError 400 for tasks like this one, `copies` of them for each prompt, that would tell too much.

    field: what n_probs is called. grammar: the request's, which answers repeat. Of a text whose length is not limited,
    as many tokens count as a slot holds.
    """
    n_tasks = len(prompts) * copies
    n_stops = sum(map(len, task.stop))
    if n_stops > _MOST_STOPS:
        raise invalid_request(f"Field 'stop': must be at most {_MOST_STOPS} characters together, got {n_stops}")
    n_biases = len(task.sampler.logit_bias)
    if n_biases * n_tasks > max(_MOST_BIASES, n_biases):
        raise invalid_request(
            f"Field 'logit_bias': {n_biases} tokens are too many for {n_tasks} texts: "
            f"both multiplied must be at most {_MOST_BIASES}"
        )
    _check_echo(task, prompts, copies, grammar)
    n_probs, n_ctx = min(task.n_probs, service.model.tokenizer.vocab_size), service.model.n_ctx_slot
    longer = task.n_predict >= n_ctx and service.options.context_shift
    n_tokens = task.n_predict if 0 <= task.n_predict < n_ctx or longer else n_ctx
    usual = n_probs <= _USUAL_PROBS
    most = MOST_CHANCES if usual else _MOST_UNUSUAL
    if n_probs * n_tokens * n_tasks > most and not (usual and n_tasks <= _USUAL_TEXTS):
        raise invalid_request(
            f"Field '{field}': {n_probs} for each of {n_tokens * n_tasks} tokens that may be written is too much: "
            f"both multiplied must be at most {most}; ask for fewer, or limit n_predict"
        )


def _check_echo(task: CompletionTask, prompts: Sequence[Sequence[int]], copies: int, grammar: str | None) -> None:
    """What is told but once is no larger than the request was."""
    n_tasks = len(prompts) * copies
    breakers = task.sampler.dry_sequence_breakers
    told = {
        "prompt": _TOKEN_BYTES * sum(map(len, prompts)) * copies if copies > 1 else 0,
        "grammar": _n_bytes([grammar or ""]) * n_tasks,
        "stop": _n_bytes(task.stop) * n_tasks,
        "dry_sequence_breakers": _n_bytes(breakers) * n_tasks,
    }
    total = sum(told.values())
    if total > _MOST_ECHO and n_tasks > 1:
        largest = max(told, key=lambda name: told[name])
        raise invalid_request(
            f"Field '{largest}': would be told again with each of {n_tasks} texts: {total} bytes, "
            f"which must be at most {_MOST_ECHO}"
        )


def _n_bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
