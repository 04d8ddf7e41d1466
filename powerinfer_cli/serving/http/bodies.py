"""JSON answers, written once and not looked at again."""

import json
from typing import Any

from starlette.responses import JSONResponse

from powerinfer_cli.serving.errors import APIError

__all__ = ["Answer", "error_answer", "json_bytes"]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode  # dumps() makes one anew


def json_bytes(value: Any) -> bytes:
    """Compact UTF-8. Halves of a surrogate pair, which JSON can hold and UTF-8 cannot, become question marks."""
    return _encode(value).encode("utf-8", "replace")


class Answer(JSONResponse):
    """As llama-server says what it is."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def error_answer(error: APIError) -> Answer:
    return Answer(error.body(), error.status, error.headers)
