"""What Anthropic's messages take."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from .fields import FromMinusOne, Integer, Number, RequestFields, Switch, Texts

__all__ = ["MessagesRequest", "Thinking"]

_BLOCKS: dict[str, Any] = {"type": "array", "items": {"type": "object", "required": ["type"]}}
_TEXT_OR_BLOCKS: dict[str, Any] = {"anyOf": [{"type": "string"}, _BLOCKS]}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string"}, "content": _TEXT_OR_BLOCKS},
}
# Checked by hand (chat.anthropic), so that errors name the one thing that is wrong.
Messages = Annotated[Any, WithJsonSchema({"type": "array", "items": _MESSAGE})]
TextOrBlocks = Annotated[Any, WithJsonSchema(_TEXT_OR_BLOCKS)]
Tools = Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "object", "required": ["name"]}})]


class Thinking(RequestFields):
    """type: enabled, disabled or adaptive."""

    type: str | None = None
    budget_tokens: Integer | None = None


class ToolChoice(RequestFields):
    """type: auto, any, tool (which `name` names) or none."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: Switch | None = None


class MessagesRequest(RequestFields):
    """A conversation, and what its answer may be."""

    messages: Messages = None
    model: Any = Field(None, description="any: one model is served")
    system: TextOrBlocks | None = None
    max_tokens: FromMinusOne | None = Field(None, description="4096 by default")
    stop_sequences: Texts | None = None
    stream: Switch | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Integer | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
