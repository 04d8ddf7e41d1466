"""What OpenAI's responses take."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from .chat import ChatRequest
from .fields import FromMinusOne, RequestFields

__all__ = ["Effort", "ResponsesRequest"]

_ITEMS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
Input = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, _ITEMS]})]


class Effort(RequestFields):
    effort: str | None = None


class TextFormat(RequestFields):
    """type: text, json_object or json_schema."""

    type: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(RequestFields):
    format: TextFormat | None = None


class ResponsesRequest(ChatRequest):
    """input: a text, or messages, calls, their results and thoughts. llama-server's fields are known here as well."""

    input: Input = None
    instructions: str | None = None
    previous_response_id: str | None = Field(None, description="not supported: nothing is stored")
    max_output_tokens: FromMinusOne | None = None
    reasoning: Effort | None = None
    text: TextOptions | None = None
