"""Types of request fields. JSON's types are kept apart: no number is taken for a text, a switch or the other way."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

__all__ = [
    "FromMinusOne",
    "Integer",
    "Natural",
    "Number",
    "RequestFields",
    "Switch",
    "TextOrTexts",
    "Texts",
    "whole",
]

INT32_MAX = 2**31 - 1


def _whole(value: Any) -> Any:
    # JSON has one kind of number, and some clients write 16 as 16.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


whole = BeforeValidator(_whole)
Integer = Annotated[int, Field(strict=True, ge=-INT32_MAX - 1, le=INT32_MAX), whole]
Natural = Annotated[int, Field(strict=True, ge=0, le=INT32_MAX), whole]
FromMinusOne = Annotated[int, Field(strict=True, ge=-1, le=INT32_MAX), whole]
Number = Annotated[float, Field(strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Texts = Annotated[list[str], Field(max_length=1024)]


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


TextOrTexts = Annotated[
    Texts,
    BeforeValidator(_texts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 1024}]}),
]


class RequestFields(BaseModel):
    """A request's body: unknown keys are ignored, and null is as good as absent where a field may be None."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())
