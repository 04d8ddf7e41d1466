"""Compare what we render of models' chat templates with what transformers renders.

Usage: python scripts/checks/check_chat_templates.py FOLDER

FOLDER holds `*.jinja`, such as llama.cpp's `models/templates`. Each is rendered for conversations of many kinds, with
and without the prompt for an answer; texts must be equal, and what one refuses the other must refuse.
"""

import sys
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from powerinfer_cli.text import ChatTemplate, TemplateError

Message = dict[str, Any]

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & 'then'",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its näme"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def user(content: Any) -> Message:
    """A message of that role."""
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> Message:
    """A message of that role."""
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> Message:
    """A message of that role."""
    return {"role": "system", "content": content}


def call(arguments: Any) -> Message:
    """The assistant's call of TOOL."""
    function = {"name": "get_weather", "arguments": arguments}
    return assistant("", tool_calls=[{"id": "abcdef123", "type": "function", "function": function}])


RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather", "content": '{"temp": 3}'}
CHATS: dict[str, tuple[list[Message], dict[str, Any]]] = {
    "user": ([user(" Hi there \n")], {}),
    "system": ([system("Be kind."), user("Hi")], {}),
    "turns": ([system("Be kind."), user("Hi"), assistant(" Hello! \n"), user("Bye <b>")], {}),
    "system, turns": ([system("a"), user("b"), assistant("c"), user("d"), assistant("e"), user("f")], {}),
    "two systems": ([system("a"), system("b"), user("c")], {}),
    "assistant first": ([assistant("a"), user("b")], {}),
    "two users": ([user("a"), user("b")], {}),
    "parts": ([user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], {}),
    "thoughts": ([user("1+1"), assistant("<think>\nhm\n</think>\n\n2"), user("2+2")], {"enable_thinking": True}),
    "reasoning": ([user("1+1"), assistant("2", reasoning_content="hm"), user("2+2")], {}),
    "no thoughts": ([user("1+1")], {"enable_thinking": False}),
    "tools": ([system("Use tools."), user("Weather?")], {"tools": [TOOL]}),
    "call": ([user("Weather?"), call({"city": "Köln", "days": 2}), RESULT, assistant("Cold."), user("Now?")], {}),
    "call as text": ([user("Weather?"), call('{"city": "Köln"}'), RESULT, assistant("Cold.")], {"tools": [TOOL]}),
    "documents": ([user("What?")], {"documents": [{"title": "T", "text": "x y"}]}),
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def ours(template: ChatTemplate, messages: list[Message], asked: bool, variables: dict[str, Any]) -> str | None:
    """None where the template refuses."""
    try:
        return template.render(messages, add_generation_prompt=asked, **variables)
    except TemplateError:
        return None


def theirs(source: str, messages: list[Message], asked: bool, variables: dict[str, Any]) -> str | None:
    """None where the template refuses."""
    try:
        texts, _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=asked, **variables)
    except Exception:  # whatever a foreign template raises
        return None
    return str(texts[0])


def check(path: Path) -> int:
    """Print a line for the template at `path` and for each difference. The number of these."""
    source = path.read_text(encoding="utf-8")
    template = ChatTemplate(source, path.name)
    differences = refused = 0
    for name, (messages, variables) in CHATS.items():
        for asked in (False, True):
            given = (messages, asked, TOKENS | variables)
            found, expected = ours(template, *given), theirs(source, *given)
            refused += expected is None
            if found != expected:
                differences += 1
                print(f"  {name}, {asked}: ours {str(found)[-200:]!r}, transformers {str(expected)[-200:]!r}")
    print(f"{path.name}: {differences} differences in {2 * len(CHATS)} chats, of which it refuses {refused}")
    return differences


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_chat_templates.py FOLDER")
    templates = sorted(Path(sys.argv[1]).glob("*.jinja"))
    if not templates:
        sys.exit(f"no *.jinja in {sys.argv[1]}")
    sys.exit(1 if sum([check(path) for path in templates]) else 0)
