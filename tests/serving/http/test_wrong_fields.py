"""What is wrong with a request's fields: its path, and plain words; never a library's."""

import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from powerinfer_cli.serving.http.wrong_fields import validation_message
from powerinfer_cli.serving.schemas.anthropic import MessagesRequest
from powerinfer_cli.serving.schemas.chat import ChatRequest
from powerinfer_cli.serving.schemas.embeddings import EmbeddingRequest
from powerinfer_cli.serving.schemas.infill import InfillRequest
from powerinfer_cli.serving.schemas.sampling import SamplingFields


class Part(BaseModel):
    text: str


class Request(BaseModel):
    content: str | list[int | Part]
    n: int = 1
    ratio: float = 0.5


def message(model: type[BaseModel], value: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return validation_message([{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"content": 1.5}, '"content" must be a text or an array'),
        ({"content": "x", "n": "many"}, '"n" must be a whole number'),
        ({}, '"content" is missing'),
        ({"content": "x", "n": [], "ratio": []}, '"n" must be a whole number (and 1 more)'),
        ({"content": [1, {"text": 2}]}, '"content[1].text" must be a text'),
        ([], "the body must be an object"),
    ],
)
def test_messages_name_the_field(value: Any, says: str) -> None:
    assert message(Request, value) == says


@pytest.mark.parametrize(
    ("model", "value", "says"),
    [
        (SamplingFields, {"temperature": "hot"}, '"temperature" must be a number'),
        (SamplingFields, {"top_p": float("nan")}, '"top_p" must be a finite number'),
        (SamplingFields, {"top_k": 1.5}, '"top_k" must be a whole number'),
        (SamplingFields, {"stream": 1}, '"stream" must be true or false'),
        (SamplingFields, {"stop": [1]}, '"stop[0]" must be a text'),
        (SamplingFields, {"n": 0}, '"n" must be 1 or more'),
        (SamplingFields, {"seed": 2**70}, '"seed" must be less than 18446744073709551616'),
        (SamplingFields, {"logprobs": "x"}, '"logprobs" must be a whole number or true or false'),
        (SamplingFields, {"lora": [1]}, '"lora" must be empty'),
        (SamplingFields, {"dry_sequence_breakers": []}, '"dry_sequence_breakers" must be an array of at least 1'),
        (SamplingFields, {"adaptive_decay": 7.0}, '"adaptive_decay" must be 0.99 or less'),
        (SamplingFields, {"samplers": ["x" * 99]}, '"samplers[0]" must be a text of at most 64 characters'),
        (SamplingFields, {"json_schema": 4}, '"json_schema" must be an object'),
        (ChatRequest, {"response_format": {"schema": 3}}, '"response_format.schema" must be an object'),
        (
            InfillRequest,
            {"input_prefix": "", "input_extra": [{}]},
            '"input_suffix" is missing (and 1 more)',
        ),
        (EmbeddingRequest, {"encoding_format": "x"}, "\"encoding_format\" must be 'float' or 'base64'"),
        (MessagesRequest, {"thinking": 3}, '"thinking" must be an object'),
    ],
)
def test_no_field_speaks_in_a_librarys_words(model: type[BaseModel], value: Any, says: str) -> None:
    assert message(model, value) == says
    assert not re.search("input|valid|parse|instance|item", says.removeprefix('"input_suffix'))
