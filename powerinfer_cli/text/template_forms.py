"""In which forms a template takes messages, found by rendering small conversations with it, and messages put so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from powerinfer_cli.rendering.limits import Cause

from .chat_template import ChatTemplate, TemplateError

__all__ = ["TemplateForms", "fitted_messages", "forms_of", "text_of", "try_out", "usual_variables", "write_chat"]

Message = Mapping[str, Any]

_MARK = "Quokka7"


@dataclass(frozen=True)
class TemplateForms:
    """no_tools: what stands for no tools. texts, parts: content as a string, or as a list of parts. system: messages of
    that role. refuses: everything, so that nothing else is known; remark: why, where that is a limit that it meets.
    """

    no_tools: tuple[()] | None = None
    texts: bool = True
    parts: bool = False
    system: bool = True
    refuses: bool = False
    remark: str = ""


@lru_cache(maxsize=8)
def forms_of(template: ChatTemplate) -> TemplateForms:
    """Found once a template. Raises TemplateError where that may go better another time."""
    try:
        return _found(template)
    except TemplateError as error:
        if error.cause is not Cause.LIMIT:
            raise
        return TemplateForms(refuses=True, remark=str(error))


def _found(template: ChatTemplate) -> TemplateForms:
    marked = {"role": "user", "content": _MARK}
    no_tools: tuple[()] | None = None if try_out(template, [marked]) is not None else ()
    text = try_out(template, [marked], tools=no_tools)
    parts = try_out(template, [_in_parts(marked)], tools=no_tools)
    if text is None and parts is None:
        return TemplateForms(refuses=True)  # and let nobody wait until the rest has failed as well
    texts, parts = _MARK in (text or ""), parts or ""
    system: list[Message] = [{"role": "system", "content": _MARK}, {"role": "user", "content": "Hello"}]
    if not texts:
        system = list(map(_in_parts, system))
    return TemplateForms(
        no_tools=no_tools,
        texts=texts,
        parts=_MARK in parts and f"'text': '{_MARK}'" not in parts and f'"text": "{_MARK}"' not in parts,
        system=_MARK in (try_out(template, system, tools=no_tools) or ""),
    )


def _in_parts(message: Message) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def try_out(template: ChatTemplate, messages: Sequence[Message], **variables: Any) -> str | None:
    """None where the template refuses. Raises TemplateError for anything else."""
    try:
        return template.render(messages, **usual_variables(), **variables)
    except TemplateError as error:
        if error.cause is not Cause.TEMPLATE:
            raise
        return None


def usual_variables() -> dict[str, Any]:
    """What llama.cpp gives every template besides what the request has. functions: firefunction's name for tools."""
    now = datetime.now().astimezone()
    date = {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
    return {**date, "enable_thinking": True, "functions": ""}


def fitted_messages(template: ChatTemplate, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages whose roles and contents the template takes. As in llama.cpp, the system's message becomes the
    beginning of the next one for a template without that role, such as Gemma-2's.
    """
    forms = forms_of(template)
    named = list(messages) if "<|channel|>" in template.source else list(map(_without_developer, messages))
    return [_fitted(message, forms) for message in (named if forms.system else _without_system(named))]


def _without_developer(message: Message) -> Message:
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _fitted(message: Message, forms: TemplateForms) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, list) and not forms.parts:
        return {**message, "content": text_of(content)}
    if isinstance(content, str) and forms.parts and not forms.texts:
        return _in_parts(message)
    return dict(message)


def _without_system(messages: list[Message]) -> list[Message]:
    if not messages or messages[0]["role"] != "system":
        return messages
    if len(messages) == 1:
        return [{**messages[0], "role": "user"}]
    text = f"{text_of(messages[0]['content'])}\n{text_of(messages[1]['content'])}"
    return [{**messages[1], "content": text}, *messages[2:]]


def text_of(content: Any, between: str = "\n") -> str:
    """Content as one text."""
    return content if isinstance(content, str) else between.join(part["text"] for part in content)


def write_chat(template: ChatTemplate, messages: Sequence[Message], **variables: Any) -> str:
    """The prompt for an answer to plain `messages` (role and content each), as a server would write it.

    `variables` are the template's, besides the usual ones. Raises TemplateError.
    """
    variables = {**usual_variables(), "tools": forms_of(template).no_tools, **variables}
    return template.render(fitted_messages(template, messages), **variables)
