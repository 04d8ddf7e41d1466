"""What a template can do, found by rendering small conversations with it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from powerinfer_cli.rendering.limits import Cause
from powerinfer_cli.text import ChatTemplate, TemplateError
from powerinfer_cli.text.template_forms import TemplateForms, forms_of, try_out

from .tool_styles import GENERIC, ToolStyle, style_of

__all__ = ["Capabilities", "capabilities_of"]

_MARK = "Quokka7"
_USER = {"role": "user", "content": "Hello"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _MARK,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {"arg": {"type": "string"}}, "required": ["arg"]},
    },
}


@dataclass(frozen=True)
class Capabilities:
    """forms: of messages. calls: calls of tools in messages; objects: their arguments as objects; otherwise as texts.
    parallel: several calls in one message. style: how its models call tools; GENERIC where it does not show them tools,
    or how these are called is not known. remark: on a template that does not even get so far.
    """

    forms: TemplateForms
    calls: bool = False
    objects: bool = False
    parallel: bool = False
    style: ToolStyle = GENERIC
    remark: str = ""


@lru_cache(maxsize=8)
def capabilities_of(template: ChatTemplate) -> Capabilities:
    """Found once a template, which takes a while; one that meets a limit, or refuses everything, is asked no more.

    Raises TemplateError where that may go better another time.
    """
    forms = forms_of(template)
    if forms.refuses:
        return Capabilities(forms, remark=forms.remark)
    try:
        return _found(template, forms)
    except TemplateError as error:
        if error.cause is not Cause.LIMIT:
            raise
        return Capabilities(TemplateForms(), remark=str(error))


def _found(template: ChatTemplate, forms: TemplateForms) -> Capabilities:
    """Raises TemplateError, but not for a template that refuses something."""
    objects = _takes_objects(template)
    style = style_of(template.source) if _shows(template, [_USER], tools=[_TOOL]) else GENERIC
    return Capabilities(
        forms,
        calls=objects or _shows(template, _with_calls([f'{{"arg": "{_MARK}"}}']), tools=[_TOOL]),
        objects=objects,
        parallel=style is not GENERIC and _takes_several(template),
        style=style,
    )


def _takes_objects(template: ChatTemplate) -> bool:
    """Not where an object comes out as Python writes it."""
    rendered = try_out(template, _with_calls([{"arg": _MARK}]), tools=[_TOOL]) or ""
    return _MARK + '"' in rendered and f"'{_MARK}'" not in rendered


def _takes_several(template: ChatTemplate) -> bool:
    return any(
        f"{_MARK}2" in (try_out(template, _with_calls(arguments), tools=[_TOOL]) or "")
        for arguments in ([{"arg": "1"}, {"arg": f"{_MARK}2"}], ['{"arg": "1"}', f'{{"arg": "{_MARK}2"}}'])
    )


def _with_calls(arguments: list[Any]) -> list[dict[str, Any]]:
    calls = [
        {"id": f"call0000{i}", "type": "function", "function": {"name": "tool", "arguments": one}}
        for i, one in enumerate(arguments)
    ]
    results = [{"role": "tool", "content": "Done", "tool_call_id": call["id"]} for call in calls]
    return [
        _USER,
        {"role": "assistant", "content": "", "tool_calls": calls},
        *results,
        {"role": "assistant", "content": "Hello"},
        _USER,
    ]


def _shows(template: ChatTemplate, messages: list[dict[str, Any]], **variables: Any) -> bool:
    return _MARK in (try_out(template, messages, **variables) or "")
