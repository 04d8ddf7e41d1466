"""Prompts as callers spell them, to token ids."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.text import Tokenizer

__all__ = ["POOLINGS", "chat_messages", "prompt_ids", "start_ids"]

POOLINGS = ("mean", "cls", "last")


def start_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text as tokens of a new context, which the model is to continue: without the EOS that closes a text."""
    ids = tokenizer.encode(text, add_special=True, parse_special=True)
    return ids[:-1] if tokenizer.add_eos else ids


def prompt_ids(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    """A text as `start_ids` has it, or tokens, as they are. At least one.

    Raises:
        PowerInferError: there is nothing to continue, or it is neither text nor tokens.
    """
    if isinstance(prompt, str):
        ids = start_ids(tokenizer, prompt)
    elif isinstance(prompt, Iterable) and all(isinstance(token, Integral) for token in prompt):
        ids = [int(token) for token in prompt]
    else:
        raise UsageError(f"a prompt is a text or a list of token ids, got {prompt!r:.60}")
    if not ids and tokenizer.bos_id is None:
        raise PowerInferError("nothing to continue: the prompt is empty")
    return ids or [tokenizer.bos_id or 0]


def chat_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each with a role and content, a text or parts. Raises UsageError: anything else than messages of text."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        raise UsageError('messages must be a list, as [{"role": "user", "content": "Hello"}]')
    return [_message(one, f"messages[{i}]") for i, one in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UsageError(f'{where} must be a message, as {{"role": "user", "content": "Hello"}}, got {message!r:.60}')
    content = message.get("content")
    if content is None:
        return {**message, "content": ""}
    if isinstance(content, str):
        return dict(message)
    parts = list(content) if isinstance(content, Sequence) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise UsageError(f"{where}: content must be a text, or parts of type text, got {content!r:.60}")
    return {**message, "content": [{"type": "text", "text": part["text"]} for part in parts]}
