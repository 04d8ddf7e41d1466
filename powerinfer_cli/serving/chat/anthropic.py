"""Anthropic's messages as a chat request of OpenAI's kind."""

import json
import re
from typing import Any

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.schemas.anthropic import MessagesRequest
from powerinfer_cli.serving.schemas.chat import ChatRequest

__all__ = ["as_chat"]

_MAX_TOKENS = 4096
# A stamp that is another in each request, and would keep prompts from sharing their beginning.
_STAMP = re.compile(r"\A(x-anthropic-billing-header:.*?cch=).{5}(?=;)", re.DOTALL)


def as_chat(request: MessagesRequest) -> ChatRequest:
    """APIError 400 names what is wrong with the messages."""
    fields: dict[str, Any] = {
        "messages": _messages(request),
        "max_tokens": _MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        "stop": request.stop_sequences,
        "tools": _tools(request.tools),
        "echo": False,  # Anthropic's answers do not repeat what they continue
        **{key: getattr(request, key) for key in ("stream", "temperature", "top_p", "top_k")},
    }
    choice = request.tool_choice
    if choice is not None:
        fields["tool_choice"] = _tool_choice(choice.type, choice.name)
        fields["parallel_tool_calls"] = False if choice.disable_parallel_tool_use else None
    variables = dict(request.chat_template_kwargs or {})
    if request.thinking is not None and request.thinking.type in ("enabled", "disabled"):
        variables.setdefault("enable_thinking", request.thinking.type == "enabled")
    return ChatRequest.model_validate({**fields, "chat_template_kwargs": variables})


def _tool_choice(kind: str, name: str | None) -> Any:
    if kind == "tool":
        return {"type": "function", "function": {"name": name}}
    words = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in words:
        raise invalid_request(f"Field 'tool_choice.type': must be auto, any, tool or none, got {kind[:80]!r}")
    return words[kind]


def _tools(value: Any) -> list[Any] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise invalid_request("Field 'tools': must be an array")
    return [_tool(one, f"tools[{i}]") for i, one in enumerate(value)]


def _tool(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise invalid_request(f"{where}.name must be a string")
    if not isinstance(value.get("input_schema", {}), dict):
        raise invalid_request(f"{where}.input_schema must be an object")
    described = {
        "name": value["name"],
        "description": value.get("description"),
        "parameters": value.get("input_schema"),
    }
    return {"type": "function", "function": described}


def _messages(request: MessagesRequest) -> list[Any]:
    if request.messages is None:
        raise invalid_request("'messages' is required")
    if not isinstance(request.messages, list):
        raise invalid_request("Expected 'messages' to be an array")
    messages: list[Any] = []
    if request.system is not None:
        messages.append({"role": "system", "content": _system(request.system)})
    for i, message in enumerate(request.messages):
        messages += _message(message, f"messages[{i}]")
    return messages


def _system(value: Any) -> str:
    if isinstance(value, str):
        return _STAMP.sub(r"\1fffff", value)
    if not isinstance(value, list):
        raise invalid_request("Field 'system': must be a string or an array of blocks")
    return "".join(_STAMP.sub(r"\1fffff", _text(block, f"system[{i}]")) for i, block in enumerate(value))


def _text(block: Any, where: str) -> str:
    if not isinstance(block, dict) or block.get("type") != "text":
        raise invalid_request(f"{where}.type must be 'text'")
    if not isinstance(block.get("text"), str):
        raise invalid_request(f"{where}.text must be a string")
    return str(block["text"])


def _message(value: Any, where: str) -> list[Any]:
    """One message, and one for each result of a tool in it."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise invalid_request(f"{where}.role must be a string")
    content = value.get("content")
    if not isinstance(content, list):
        if not isinstance(content, str):
            raise invalid_request(f"{where}.content must be a string or an array of blocks")
        return [{"role": value["role"], "content": content}]
    turn = _Turn()
    for i, block in enumerate(content):
        turn.add(block, f"{where}.content[{i}]")
    return turn.messages(value["role"])


class _Turn:
    """The blocks of one message."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._calls: list[Any] = []
        self._results: list[Any] = []
        self._thoughts = ""

    def add(self, block: Any, where: str) -> None:
        kind = block.get("type") if isinstance(block, dict) else None
        match kind:
            case "text" | "image":
                self._parts.append(_part(block, where))
            case "thinking":
                self._thoughts += _string(block, "thinking", where)
            case "redacted_thinking":
                pass  # nobody here can read them
            case "tool_use":
                arguments = json.dumps(block.get("input", {}), ensure_ascii=False)
                function = {"name": _string(block, "name", where), "arguments": arguments}
                self._calls.append({"type": "function", "id": _string(block, "id", where), "function": function})
            case "tool_result":
                content = _result(block.get("content"), where)
                call = _string(block, "tool_use_id", where)
                self._results.append({"role": "tool", "tool_call_id": call, "content": content})
            case _:
                raise invalid_request(f"{where}.type: unsupported block {kind!r:.80}")

    def messages(self, role: str) -> list[Any]:
        """In OpenAI's order: what is said, then the results."""
        said: list[Any] = []
        if self._parts or self._calls or self._thoughts:
            message: dict[str, Any] = {"role": role, "content": self._parts or ""}
            if self._calls:
                message["tool_calls"] = self._calls
            if self._thoughts:
                message["reasoning_content"] = self._thoughts
            said = [message]
        return said + self._results


def _part(block: dict[str, Any], where: str) -> dict[str, Any]:
    if block["type"] == "image":
        return {"type": "image_url", "image_url": {}}
    return {"type": "text", "text": _text(block, where)}


def _result(content: Any, where: str) -> Any:
    """A text, or parts where there are pictures."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise invalid_request(f"{where}.content must be a string or an array of blocks")
    parts = []
    for i, block in enumerate(content):
        if not isinstance(block, dict) or block.get("type") not in ("text", "image"):
            raise invalid_request(f"{where}.content[{i}].type must be 'text' or 'image'")
        parts.append(_part(block, f"{where}.content[{i}]"))
    if any(part["type"] != "text" for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


def _string(block: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(block.get(key), str):
        raise invalid_request(f"{where}.{key} must be a string")
    return str(block[key])
