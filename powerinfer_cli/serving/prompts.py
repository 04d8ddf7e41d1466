"""Prompts as requests spell them: text, tokens, both mixed, or several of these, to token ids."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import WithJsonSchema

from powerinfer_cli.serving.errors import APIError, invalid_request
from powerinfer_cli.text import Tokenizer

__all__ = [
    "Prompt",
    "check_texts",
    "check_tokens",
    "detokenize",
    "is_costly",
    "prompt_list",
    "tokenize_mixed",
    "tokenize_prompts",
]

_TEXT: dict[str, Any] = {"type": "string"}
_TOKENS: dict[str, Any] = {"type": "array", "items": {"anyOf": [{"type": "integer", "minimum": 0}, _TEXT]}}
_OBJECT: dict[str, Any] = {
    "type": "object",
    "required": ["prompt_string"],
    "properties": {"prompt_string": {"anyOf": [_TEXT, _TOKENS]}},
}
_ONE = [_TEXT, _TOKENS, _OBJECT]
# Checked by hand, below: a union's errors would name every form that it could have been.
Prompt = Annotated[Any, WithJsonSchema({"anyOf": [*_ONE, {"type": "array", "items": {"anyOf": _ONE}}]})]

MOST_TEXTS = 1 << 16  # that one prompt is pieced together from: each has to be tokenized, even an empty one
# Text of this size is tokenized in well under a step's time, so the event loop may do it.
_CHEAP = 4096


def tokenize_prompts(
    value: Any, tokenizer: Tokenizer, *, add_special: bool = True, most: int = 1 << 16, field: str = "prompt"
) -> list[tuple[int, ...]]:
    """The prompts in a request's `value`, BOS included where a prompt begins with text and the model wants it.

    `most`: prompts in one request. A prompt may be empty. APIError 400 names `field` and what it must be.
    """
    ones = prompt_list(value)
    if not ones:
        raise invalid_request(f'"{field}" must not be empty')
    if len(ones) > most:
        raise invalid_request(
            f'"{field}" must be at most {most} prompts, got {len(ones)}: send fewer at a time, or start the server '
            "with a larger --queue"
        )
    return [_tokenize_one(one, tokenizer, add_special, field) for one in ones]


def prompt_list(value: Any) -> list[Any]:
    """The single prompts in `value`: an array that holds a token is one prompt, any other is one prompt an element."""
    if isinstance(value, list) and not any(_is_token(element) for element in value):
        return value
    return [value]


def is_costly(value: Any) -> bool:
    """Whether tokenizing would keep an event loop waiting."""
    room, stack = _CHEAP, [value]
    while stack and room > 0:
        one = stack.pop()
        if isinstance(one, str):
            room -= len(one)
        elif isinstance(one, list):
            room -= len(one)
            stack += one[:_CHEAP]
        elif isinstance(one, dict):
            stack += (list(one), list(one.values()))
    return room <= 0


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tokenize_one(value: Any, tokenizer: Tokenizer, add_special: bool, field: str) -> tuple[int, ...]:
    if isinstance(value, dict) and "prompt_string" in value:
        if value.get("multimodal_data") is not None:
            raise invalid_request("Multimodal data provided, but model does not support multimodal requests.")
        value = value["prompt_string"]
    if not isinstance(value, str | list):
        raise _malformed(field)
    return tokenize_mixed(value, tokenizer, add_special=add_special, field=field)


def tokenize_mixed(
    value: str | Sequence[Any],
    tokenizer: Tokenizer,
    *,
    add_special: bool,
    parse_special: bool = True,
    field: str = "prompt",
) -> tuple[int, ...]:
    """One prompt: text, or a list of tokens and texts. BOS and EOS come with text that stands first only."""
    if isinstance(value, str):
        return tuple(tokenizer.encode(value, add_special, parse_special))
    check_texts(value, field)
    ids: list[int] = []
    for place, element in enumerate(value):
        if isinstance(element, str):
            ids += tokenizer.encode(element, add_special and place == 0, parse_special)
        elif _is_token(element):
            ids.append(element)
        else:
            raise _malformed(field)
    check_tokens(ids, tokenizer)
    return tuple(ids)


def check_texts(value: Sequence[Any], field: str) -> None:
    """APIError 400 for too many texts."""
    n_texts = len(value) > MOST_TEXTS and sum(isinstance(element, str) for element in value)
    if n_texts > MOST_TEXTS:
        raise invalid_request(f'"{field}" must be at most {MOST_TEXTS} texts, got {n_texts}')


def check_tokens(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    """APIError 400 unless all are the vocabulary's."""
    if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        raise invalid_request("Prompt contains invalid tokens")


def _malformed(field: str) -> APIError:
    return invalid_request(
        f'"{field}" elements must be a string, a list of tokens, a JSON object containing a prompt string, '
        "or a list of mixed strings & tokens."
    )


def detokenize(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """A prompt as answers repeat it: control tokens as their text."""
    return tokenizer.decode_bytes(ids, special=True).decode("utf-8", "replace")
