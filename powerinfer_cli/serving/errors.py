"""What a request may be told instead of an answer: llama-server's error bodies and status codes."""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "APIError",
    "authentication_error",
    "context_exceeded",
    "invalid_request",
    "not_found",
    "not_supported",
    "server_error",
    "unavailable",
]


class APIError(Exception):
    """Answers with `status` and {"error": {"code": status, "message", "type", **extra}}."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.extra, self.headers = dict(extra or {}), dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON that says so."""
        return {"error": {"code": self.status, "message": self.message, "type": self.kind, **self.extra}}


def invalid_request(message: str) -> APIError:
    """The request is wrong: `message` names the field, and what it must be."""
    return APIError(400, "invalid_request_error", message)


def context_exceeded(n_prompt_tokens: int, n_ctx: int) -> APIError:
    """The prompt is longer than a slot's context."""
    return APIError(
        400,
        "exceed_context_size_error",
        f"request ({n_prompt_tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it",
        extra={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx},
    )


def authentication_error() -> APIError:
    """No key, or a wrong one."""
    return APIError(401, "authentication_error", "Invalid API Key")


def not_found(message: str = "File Not Found") -> APIError:
    """No such route, slot or file."""
    return APIError(404, "not_found_error", message)


def not_supported(message: str) -> APIError:
    """What this server was not started for."""
    return APIError(501, "not_supported_error", message)


def server_error(message: str) -> APIError:
    """Our fault."""
    return APIError(500, "server_error", message)


def unavailable(message: str, retry_after_s: int = 1) -> APIError:
    """Not now: the model loads, or too many wait already."""
    return APIError(503, "unavailable_error", message, headers={"Retry-After": str(retry_after_s)})
