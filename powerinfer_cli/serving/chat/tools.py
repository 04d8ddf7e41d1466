"""The tools of a request, and which of them the answer may or must call."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from powerinfer_cli.serving.errors import invalid_request

__all__ = ["Choice", "Tool", "ToolChoice", "read_tool_choice", "read_tools"]


class Choice(StrEnum):
    """What `tool_choice` says."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True)
class Tool:
    """parameters: a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolChoice:
    """name: of the only tool that may be called."""

    choice: Choice = Choice.AUTO
    name: str | None = None


def read_tools(value: Any) -> tuple[Tool, ...]:
    """APIError 400 names what is wrong."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid_request("'tools' must be an array of objects")
    return tuple(_tool(one, f"tools[{i}]") for i, one in enumerate(value))


def read_tool_choice(value: Any, tools: Sequence[Tool]) -> ToolChoice:
    """A word, or {"type": "function", "function": {"name": ...}}. APIError 400 for what is neither."""
    if value is None:
        return ToolChoice()
    if isinstance(value, str):
        if value not in set(Choice):
            raise invalid_request(f"Invalid tool_choice: {value[:80]}")
        return ToolChoice(Choice(value))
    function = value.get("function", value) if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise invalid_request("Invalid tool_choice: must be none, auto, required or name a function")
    if name not in {tool.name for tool in tools}:
        raise invalid_request(f"Invalid tool_choice: no tool is called {name[:80]!r}")
    return ToolChoice(Choice.REQUIRED, name)


def _tool(value: Any, where: str) -> Tool:
    if not isinstance(value, dict):
        raise invalid_request(f"{where} must be an object")
    if value.get("type") != "function":
        raise invalid_request(f"{where}.type must be 'function'")
    function = value.get("function")
    if not isinstance(function, dict):
        raise invalid_request(f"{where}.function must be an object")
    name, description, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not name:
        raise invalid_request(f"{where}.function.name must be a string")
    if description is not None and not isinstance(description, str):
        raise invalid_request(f"{where}.function.description must be a string")
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid_request(f"{where}.function.parameters must be an object")
    return Tool(name, description or "", parameters or {"type": "object", "properties": {}})
