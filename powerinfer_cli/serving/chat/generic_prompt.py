"""What a conversation about tools looks like for templates that know of none: JSON in ordinary messages."""

import json
from collections.abc import Sequence
from typing import Any

from powerinfer_cli.json_text import read_json
from powerinfer_cli.text.template_forms import text_of

from .messages import Message
from .tools import Choice, Tool, ToolChoice

__all__ = ["describe_tools", "without_calls"]

_CALL = '{"tool_call": {"name": <name of the tool>, "arguments": <its arguments, as an object>}}'
_CALLS = '{"tool_calls": [{"name": <name of the tool>, "arguments": <its arguments, as an object>}, ...]}'
_TEXT = '{"response": <your answer, as a string>}'


def describe_tools(
    messages: Sequence[Message], tools: Sequence[Tool], choice: ToolChoice, parallel: bool
) -> list[Message]:
    """The messages, and in the system's the tools and how they are called."""
    listed = "\n".join(json.dumps(tool.as_json()["function"], ensure_ascii=False) for tool in tools)
    form = _CALLS if parallel else _CALL
    how = f"To call a tool, answer with JSON of this form and nothing else:\n{form}"
    if choice.choice is Choice.AUTO:
        how += f"\nTo answer the user yourself, use this form instead:\n{_TEXT}"
    text = f"You have these tools, each described with a JSON schema of its parameters:\n{listed}\n\n{how}"
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{text_of(messages[0]['content'])}\n\n{text}".lstrip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def without_calls(messages: Sequence[Message]) -> list[Message]:
    """Calls become the text that the model wrote, and their results come from the user."""
    return [_plain(message) for message in messages]


def _plain(message: Message) -> Message:
    if message.get("tool_calls"):
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        content = text_of(message["content"])
        calls = _calls_text(message["tool_calls"])
        return {**rest, "content": f"{content}\n{calls}" if content else calls}
    if message["role"] == "tool":
        result = {"content": text_of(message["content"])}
        if "name" in message:
            result = {"name": message["name"], **result}
        return {"role": "user", "content": json.dumps({"tool_response": result}, ensure_ascii=False)}
    return message


def _calls_text(calls: list[dict[str, Any]]) -> str:
    written = [{"name": call["function"]["name"], "arguments": _read(call["function"]["arguments"])} for call in calls]
    form: Any = {"tool_call": written[0]} if len(written) == 1 else {"tool_calls": written}
    return json.dumps(form, ensure_ascii=False)


def _read(arguments: str) -> Any:
    try:
        return read_json(arguments)
    except (ValueError, RecursionError):
        return arguments
