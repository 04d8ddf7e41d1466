"""The messages of a request, checked, in the form that templates take."""

import json
from typing import Any, TypeAlias

from powerinfer_cli.serving.errors import APIError, invalid_request

__all__ = ["Message", "UnsupportedPart", "read_messages"]

Message: TypeAlias = dict[str, Any]
"""role, content (a text or parts of type text), and where they are: reasoning_content, name, tool_call_id and
tool_calls, whose arguments are JSON as text."""

_MEDIA = {"image_url": "image", "input_audio": "audio", "input_video": "video", "file": "file"}


class UnsupportedPart(APIError):
    """A picture, a sound or a file for a model that reads text."""

    def __init__(self, where: str, kind: str) -> None:
        hint = "hint: if this is unexpected, you may need to provide the mmproj"
        super().__init__(400, "invalid_request_error", f"{where}: {kind} input is not supported - {hint}")


def read_messages(value: Any) -> list[Message]:
    """Messages as templates take them. APIError 400 names what is wrong."""
    if value is None:
        raise invalid_request("'messages' is required")
    if not isinstance(value, list):
        raise invalid_request("Expected 'messages' to be an array")
    return [_message(one, f"messages[{i}]") for i, one in enumerate(value)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise invalid_request(f"{where} must be an object")
    role = value.get("role")
    if not isinstance(role, str):
        raise invalid_request(f"{where}.role must be a string")
    if "content" not in value and (role != "assistant" or "tool_calls" not in value):
        either = "'content' or 'tool_calls'" if role == "assistant" else "'content'"
        raise invalid_request(f"{where} must contain {either}")
    message: Message = {"role": role, "content": _content(value.get("content"), f"{where}.content")}
    for key in ("reasoning_content", "name", "tool_call_id"):
        if value.get(key) is not None:
            if not isinstance(value[key], str):
                raise invalid_request(f"{where}.{key} must be a string")
            if value[key]:
                message[key] = value[key]
    calls = value.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise invalid_request(f"{where}.tool_calls must be an array")
    if calls:
        message["tool_calls"] = [_call(one, f"{where}.tool_calls[{i}]") for i, one in enumerate(calls)]
    return message


def _content(value: Any, where: str) -> str | list[dict[str, str]]:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid_request(f"{where} must be a string, null or an array of parts")
    return [_part(one, f"{where}[{i}]") for i, one in enumerate(value)]


def _part(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise invalid_request(f"{where} must be an object")
    kind = value.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        raise UnsupportedPart(f"{where}.type {kind!r}", _MEDIA[kind])
    if kind not in ("text", "refusal"):
        raise invalid_request(f"{where}.type: unsupported content part {kind!r:.80}")
    if not isinstance(value.get(kind), str):
        raise invalid_request(f"{where}.{kind} must be a string")
    return {"type": "text", "text": value[kind]}


def _call(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid_request(f"{where} must be an object")
    if value.get("type", "function") != "function":
        raise invalid_request(f"{where}.type must be 'function'")
    function = value.get("function")
    if not isinstance(function, dict):
        raise invalid_request(f"{where}.function must be an object")
    if not isinstance(function.get("name"), str):
        raise invalid_request(f"{where}.function.name must be a string")
    arguments = function.get("arguments")
    if not isinstance(arguments, str | dict):
        raise invalid_request(f"{where}.function.arguments must be a string or an object")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    call: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": text}}
    if value.get("id") is not None:
        if not isinstance(value["id"], str):
            raise invalid_request(f"{where}.id must be a string")
        call["id"] = value["id"]
    return call
