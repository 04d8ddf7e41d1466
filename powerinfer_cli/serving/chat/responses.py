"""OpenAI's responses as a chat request."""

from typing import Any

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.schemas.chat import ChatRequest, ResponseFormat
from powerinfer_cli.serving.schemas.responses import ResponsesRequest

__all__ = ["as_chat"]

_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal", "text": "text"}


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The same with `messages`, and OpenAI's chat names for the rest. APIError 400 names what is wrong."""
    if request.input is None:
        raise invalid_request("'input' is required")
    if request.previous_response_id:
        raise invalid_request("'previous_response_id' is not supported: send the whole conversation")
    messages: list[dict[str, Any]] = []
    if request.instructions is not None:
        messages.append({"role": "system", "content": request.instructions})
    changes: dict[str, Any] = {"messages": messages + _messages(request.input)}
    if request.tools is not None:
        changes["tools"] = _tools(request.tools)
    if request.max_output_tokens is not None:
        changes["max_tokens"] = request.max_output_tokens
    if request.reasoning is not None and request.reasoning.effort is not None:
        changes["reasoning_effort"] = request.reasoning.effort
    if request.text is not None and request.text.format is not None:
        form = request.text.format
        changes["response_format"] = ResponseFormat.model_validate({"type": form.type, "schema": form.schema_})
    return request.model_copy(update=changes)


def _messages(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise invalid_request("'input' must be a string or array of objects")
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise invalid_request(f"input[{i}] must be an object")
        _add(messages, item, f"input[{i}]")
    return messages


def _add(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    """What the assistant says, thinks and calls in a row is one message."""
    match item.get("type", "message"):
        case "message":
            if not isinstance(item.get("role"), str):
                raise invalid_request(f"{where}.role must be a string")
            content = _content(item.get("content"), f"{where}.content")
            if item["role"] != "assistant":
                messages.append({"role": item["role"], "content": content})
            else:
                turn = _turn(messages)
                turn["content"] = [*turn.get("content", ()), *content]
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"type": "function", "id": item.get("call_id"), "function": function}
            _turn(messages).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            if not isinstance(item.get("call_id"), str):
                raise invalid_request(f"{where}.call_id must be a string")
            output = _content(item.get("output"), f"{where}.output")
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
        case "reasoning":
            _turn(messages)["reasoning_content"] = _thoughts(item)
        case kind:
            raise invalid_request(f"{where}.type: unsupported item {kind!r:.80}")


def _turn(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": []})
    return messages[-1]


def _thoughts(item: dict[str, Any]) -> str:
    parts = item.get("content") or item.get("summary")
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def _content(value: Any, where: str) -> list[Any]:
    """Parts as chats have them."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise invalid_request(f"{where} must be a string or an array of parts")
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(value)]


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_image", "input_file"):
        return {"type": "image_url" if kind == "input_image" else "file"}
    if not isinstance(kind, str) or kind not in _PARTS:
        raise invalid_request(f"{where}.type: unsupported content part {kind!r:.80}")
    return {"type": _PARTS[kind], _PARTS[kind]: part.get(_PARTS[kind])}


def _tools(value: Any) -> list[Any]:
    """Functions, whose fields stand beside their type here; what the service itself would do is left out."""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise invalid_request("'tools' must be an array of objects")
    fields = ("name", "description", "parameters")
    functions = [tool for tool in value if tool.get("type") == "function"]
    return [
        tool if "function" in tool else {"type": "function", "function": {key: tool.get(key) for key in fields}}
        for tool in functions
    ]
