"""Times, counts and names that every kind of answer carries."""

import secrets
from typing import Any

from powerinfer_cli import __version__
from powerinfer_cli.serving.tasks import PromptProgress, Timings

__all__ = ["SYSTEM_FINGERPRINT", "completion_id", "progress_fields", "timings_body", "usage_body"]

# llama-server's build, which clients expect to begin with a b.
SYSTEM_FINGERPRINT = f"b{__version__}-powerinfer"


def completion_id(prefix: str = "chatcmpl-") -> str:
    """A new id of one answer: llama-server calls text completions chatcmpl- as well."""
    return prefix + secrets.token_hex(16)


def timings_body(timings: Timings) -> dict[str, Any]:
    """llama-server's `timings`. The first token comes out of the prompt, so rates count those after it."""
    steps = max(timings.predicted_n - 1, 0)
    drafted = {"draft_n": timings.draft_n, "draft_n_accepted": timings.draft_n_accepted}
    return {
        "cache_n": timings.cache_n,
        "prompt_n": timings.prompt_n,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_token_ms": _ratio(timings.prompt_ms, timings.prompt_n),
        "prompt_per_second": _ratio(1e3 * timings.prompt_n, timings.prompt_ms),
        "predicted_n": timings.predicted_n,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_token_ms": _ratio(timings.predicted_ms, steps),
        "predicted_per_second": _ratio(1e3 * steps, timings.predicted_ms),
        **(drafted if timings.draft_n else {}),
    }


def progress_fields(progress: PromptProgress, with_timings: bool) -> dict[str, Any]:
    """How far a prompt is read: llama-server's `prompt_progress`, and `timings` of what was read until then."""
    body = {
        "total": progress.total,
        "cache": progress.cache,
        "processed": progress.processed,
        "time_ms": progress.time_ms,
    }
    if not with_timings:
        return {"prompt_progress": body}
    so_far = Timings(progress.cache, progress.processed - progress.cache, progress.time_ms, 0, 0.0)
    return {"prompt_progress": body, "timings": timings_body(so_far)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def usage_body(n_prompt: int, n_predicted: int, n_cached: int = 0) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "completion_tokens": n_predicted,
        "prompt_tokens": n_prompt,
        "total_tokens": n_prompt + n_predicted,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }
