"""`logit_bias` in its three forms: [[token, bias], ...], [[text, bias], ...] and {token or text: bias}."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import WithJsonSchema

from powerinfer_cli.serving.errors import APIError, invalid_request
from powerinfer_cli.text import Tokenizer

__all__ = ["LogitBias", "read_logit_bias"]

_BIAS: dict[str, Any] = {"anyOf": [{"type": "number"}, {"const": False}]}
_PAIR: dict[str, Any] = {
    "type": "array",
    "prefixItems": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, _BIAS],
    "minItems": 2,
    "maxItems": 2,
}
LogitBias = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "array", "items": _PAIR}, {"type": "object", "additionalProperties": _BIAS}]}),
]

_NUMBER = re.compile(r"\s*[+-]?\d{1,18}")


def read_logit_bias(value: Any, tokenizer: Tokenizer) -> dict[int, float]:
    """Token id -> bias, -inf for never. A text stands for each of its tokens; tokens of other models do nothing.

    Biases of one token add up. APIError 400 says what an entry must be.
    """
    biases: dict[int, float] = {}
    for key, entry in _entries(value):
        bias = _bias(entry)
        for token in _tokens(key, tokenizer):
            biases[token] = biases.get(token, 0.0) + bias
    return biases


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key, bias in value.items():
            yield (int(key) if _NUMBER.fullmatch(key) else key), bias
    elif isinstance(value, list):
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:
                raise _malformed()
            yield pair[0], pair[1]
    else:
        raise _malformed()


def _bias(value: Any) -> float:
    if value is False:
        return -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _malformed()
    try:
        bias = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        raise _malformed() from None
    if not math.isfinite(bias):
        raise _malformed()
    return bias


def _tokens(key: Any, tokenizer: Tokenizer) -> list[int]:
    if isinstance(key, str):
        return tokenizer.encode(key, add_special=False, parse_special=False)
    if isinstance(key, bool) or not isinstance(key, int):
        raise _malformed()
    return [key] if 0 <= key < tokenizer.vocab_size else []


def _malformed() -> APIError:
    return invalid_request(
        "Field 'logit_bias': must be an array of [token id or text, bias] or an object of biases by token id or text, "
        "where a bias is a number, or false for never"
    )
