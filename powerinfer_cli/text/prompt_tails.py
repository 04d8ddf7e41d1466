"""Where a chat's prompt is likely to be gone back to: its next one may leave out what opened the answer, and a question
may be asked in other words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .chat_template import ChatTemplate
from .template_forms import text_of, write_chat
from .tokenizer import Tokenizer

__all__ = ["behind", "chat_tails", "last_question", "prompt_tails"]


def behind(text: str, other: str) -> str:
    """What the longer of two texts has behind their common beginning."""
    common = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return text[common:]


def last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user said last; empty where he said nothing."""
    return next((text_of(one["content"]) for one in reversed(messages) if one["role"] == "user"), "")


def prompt_tails(tokenizer: Tokenizer, prompt: str, question: str, opening: str) -> tuple[int, int]:
    """How many tokens a prompt has from its last question on, and from what opens the answer on, which is its end; 0
    for what it has not. They are counted apart, and so may be a token too many or too few.
    """
    at = prompt.rfind(question.strip(), 0, len(prompt) - len(opening)) if question.strip() else len(prompt)
    asked = prompt[at:] if at >= 0 else ""
    n_asked, n_opening = (len(tokenizer.encode(text, add_special=False)) for text in (asked, opening))
    return n_asked, n_opening


def chat_tails(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    prompt: str,
    messages: Sequence[Mapping[str, Any]],
    /,
    **variables: Any,
) -> tuple[int, int]:
    """The same of what `write_chat` has written. Raises TemplateError."""
    asking = write_chat(template, messages, **{**variables, "add_generation_prompt": False})
    return prompt_tails(tokenizer, prompt, last_question(messages), behind(prompt, asking))
