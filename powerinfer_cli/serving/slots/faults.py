"""What is wrong with a task, or went wrong in it, as its client may be told; and what the log may say of it."""

import logging
import traceback

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.sampling.candidates import NothingLeft
from powerinfer_cli.sampling.grammars.grammar_error import GrammarError
from powerinfer_cli.serving.errors import APIError, context_exceeded, invalid_request, server_error
from powerinfer_cli.serving.tasks import CompletionTask, EmbeddingTask, Task

__all__ = ["as_api_error", "is_unforeseen", "note_fault", "refusal"]

_log = logging.getLogger(__name__)


def refusal(task: Task, n_ctx: int) -> APIError | None:
    """Why a task cannot be done in a slot of n_ctx tokens, whatever is dropped from its context; None if it can."""
    if isinstance(task, CompletionTask) and len(task.prompt) >= n_ctx:
        return context_exceeded(len(task.prompt), n_ctx)
    if isinstance(task, EmbeddingTask) and len(task.prompt) > n_ctx:
        error = context_exceeded(len(task.prompt), n_ctx)
        error.message = f"input ({len(task.prompt)} tokens) is too large to process: the context is {n_ctx} tokens"
        return error
    return None


def as_api_error(error: Exception) -> APIError:
    """What went wrong, in words for the client; what nobody foresaw has none, since its own may be the prompt's."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, GrammarError | NothingLeft):  # the request's own, and harder to follow than can be borne
        return invalid_request(str(error))
    if isinstance(error, PowerInferError):
        return server_error(str(error))
    return server_error(f"internal error: {type(error).__name__}")


def is_unforeseen(error: Exception) -> bool:
    """Whether the error is nobody's but ours."""
    return not isinstance(error, APIError | PowerInferError)


def note_fault(error: Exception) -> None:
    """Say in Python's log where it happened, but not the exception's words, which may be the prompt's."""
    places = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s\n%s", type(error).__name__, places.rstrip())
