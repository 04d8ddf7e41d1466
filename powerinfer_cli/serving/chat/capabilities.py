"""What a template can do, found by rendering small conversations with it."""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from powerinfer_cli.rendering.limits import Cause
from powerinfer_cli.text import ChatTemplate, TemplateError

from .tool_styles import GENERIC, ToolStyle, style_of

__all__ = ["Capabilities", "capabilities_of", "usual_variables"]

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
    """no_tools: what stands for no tools. texts, parts: content as a string, or as a list of parts. system: messages of
    that role. calls: calls of tools in messages; objects: their arguments as objects; otherwise as texts. parallel:
    several calls in one message. style: how its models call tools; GENERIC where it does not show them tools, or how
    these are called is not known. remark: on a template that does not even get so far.
    """

    no_tools: tuple[()] | None
    texts: bool
    parts: bool
    system: bool
    calls: bool
    objects: bool
    parallel: bool
    style: ToolStyle
    remark: str = ""


_NOTHING = Capabilities(
    no_tools=None, texts=True, parts=False, system=True, calls=False, objects=False, parallel=False, style=GENERIC
)


@lru_cache(maxsize=8)
def capabilities_of(template: ChatTemplate) -> Capabilities:
    """Found once a template, which takes a while; one that meets a limit, or refuses everything, is asked no more.

    Raises TemplateError where that may go better another time.
    """
    try:
        return _found(template)
    except TemplateError as error:
        if error.cause is not Cause.LIMIT:
            raise
        return replace(_NOTHING, remark=str(error))


def _found(template: ChatTemplate) -> Capabilities:
    """Raises TemplateError, but not for a template that refuses something."""
    user = {"role": "user", "content": _MARK}
    in_parts = {"role": "user", "content": [{"type": "text", "text": _MARK}]}
    no_tools: tuple[()] | None = None if _rendered(template, [user]) is not None else ()
    text = _rendered(template, [user], tools=no_tools)
    parts = _rendered(template, [in_parts], tools=no_tools)
    if text is None and parts is None:
        return _NOTHING  # and let nobody wait until the rest has failed as well
    parts = parts or ""
    objects = _takes_objects(template)
    style = style_of(template.source) if _shows(template, [_USER], tools=[_TOOL]) else GENERIC
    return Capabilities(
        no_tools=no_tools,
        texts=_MARK in (text or ""),
        parts=_MARK in parts and f"'text': '{_MARK}'" not in parts and f'"text": "{_MARK}"' not in parts,
        system=_shows(template, [{"role": "system", "content": _MARK}, _USER], tools=no_tools),
        calls=objects or _shows(template, _with_calls([f'{{"arg": "{_MARK}"}}']), tools=[_TOOL]),
        objects=objects,
        parallel=style is not GENERIC and _takes_several(template),
        style=style,
    )


def _takes_objects(template: ChatTemplate) -> bool:
    """Not where an object comes out as Python writes it."""
    rendered = _rendered(template, _with_calls([{"arg": _MARK}]), tools=[_TOOL]) or ""
    return _MARK + '"' in rendered and f"'{_MARK}'" not in rendered


def _takes_several(template: ChatTemplate) -> bool:
    return any(
        f"{_MARK}2" in (_rendered(template, _with_calls(arguments), tools=[_TOOL]) or "")
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


def usual_variables() -> dict[str, Any]:
    """What llama.cpp gives every template besides what the request has. functions: firefunction's name for tools."""
    now = datetime.now().astimezone()
    date = {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
    return {**date, "enable_thinking": True, "functions": ""}


def _shows(template: ChatTemplate, messages: list[dict[str, Any]], **variables: Any) -> bool:
    return _MARK in (_rendered(template, messages, **variables) or "")


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], **variables: Any) -> str | None:
    """None where the template refuses. Raises TemplateError for anything else."""
    try:
        return template.render(messages, **usual_variables(), **variables)
    except TemplateError as error:
        if error.cause is not Cause.TEMPLATE:
            raise
        return None
