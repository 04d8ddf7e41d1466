"""What OpenAI's chat completions take, with llama-server's fields beside them."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from .fields import Natural, RequestFields, Switch
from .sampling import SamplingFields

__all__ = ["ChatRequest", "ResponseFormat"]

# Checked by hand (chat.messages, chat.tools): a union's errors would name every form that something could have been.
_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
Objects = Annotated[Any, WithJsonSchema(_OBJECTS)]
WordOrObject = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]})]
WordOrSwitch = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "boolean"}, {"type": "null"}]})]
_MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string"},
            "content": {"anyOf": [{"type": "string"}, _OBJECTS, {"type": "null"}]},
            "reasoning_content": {"type": "string"},
            "tool_calls": _OBJECTS,
            "tool_call_id": {"type": "string"},
        },
    },
}
Messages = Annotated[Any, WithJsonSchema(_MESSAGES)]


class ResponseFormat(RequestFields):
    """type: text, json_object or json_schema."""

    type: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    json_schema: dict[str, Any] | None = None


class ChatRequest(SamplingFields):
    """A conversation, and what its answer may be."""

    messages: Messages = None
    model: Any = Field(None, description="any: one model is served")
    tools: Objects | None = None
    tool_choice: WordOrObject = Field(None, description="none, auto, required, or a function")
    parallel_tool_calls: Switch | None = Field(None, description="whether one answer may have several calls")
    parse_tool_calls: Switch | None = None
    response_format: ResponseFormat | None = None
    top_logprobs: Natural | None = None
    add_generation_prompt: Switch | None = None
    continue_final_message: WordOrSwitch = Field(None, description="true, content or reasoning_content")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    reasoning_format: str | None = Field(None, description="none, auto, deepseek or deepseek-legacy")
    reasoning_effort: str | None = None
    echo: Switch | None = Field(None, description="the answer begins with the message that it continues")
    verbose: Switch | None = None
