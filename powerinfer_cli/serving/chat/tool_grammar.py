"""Lark grammars of answers: calls with valid arguments, where they must or may stand, and JSON behind thoughts."""

import json
from collections.abc import Callable, Sequence

from powerinfer_cli.sampling.grammars.json_schema import ReadSchema
from powerinfer_cli.text import Tokenizer

from .reasoning import ThinkTags
from .tool_styles import GENERIC, ToolStyle

__all__ = ["calls_grammar", "schema_grammar"]

MOST_CALLS = 16
_ANY = r"ANY: /(?s:.)*/"
_TEXT = r"TEXT: /(?s:.)+/"
_SPACE = r"SPACE: /[ \n]{1,2}/"
Literal = Callable[[str], str]


def calls_grammar(
    style: ToolStyle,
    tools: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    *,
    required: bool,
    parallel: bool,
    thoughts: ThinkTags | None,
    thinking: bool,
) -> str:
    """What an answer may be: calls where `required`, else text, and calls behind it.

    tools: their names, and the schemas of their arguments, written for %json.
    thoughts: the tags of thoughts that may stand before; thinking: the answer begins inside of them.
    """
    literal = _literals(tokenizer)
    before, rules = _behind_thoughts(thoughts, thinking, literal)
    for i, (name, schema) in enumerate(tools):
        rules += [f"call_{i}: {_call(style, name, f'arguments_{i}', literal)}"]
        rules += [f"arguments_{i}: %json {schema}"]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    body, more = _generic(required, parallel) if style is GENERIC else _marked(style, literal, required, parallel)
    return "\n".join([f"start: {before}answer", f"answer: {body}", *rules, *more, _SPACE]) + "\n"


def schema_grammar(schema: ReadSchema, tokenizer: Tokenizer, thoughts: ThinkTags, thinking: bool) -> str:
    """JSON behind thoughts, which may be missing unless the answer begins inside of them."""
    before, rules = _behind_thoughts(thoughts, thinking, _literals(tokenizer))
    return "\n".join([f"start: {before}json", *rules, f"json: %json {schema.text}", _SPACE]) + "\n"


def _literals(tokenizer: Tokenizer) -> Literal:
    def literal(text: str) -> str:
        """As Lark writes it; the text of a control token is that token."""
        token = tokenizer.id_of(text)
        return f"<[{token}]>" if token is not None and tokenizer.is_control(token) else json.dumps(text)

    return literal


def _behind_thoughts(thoughts: ThinkTags | None, thinking: bool, literal: Literal) -> tuple[str, list[str]]:
    """(what stands before the answer, the rules for it)."""
    if thoughts is None:
        return "", []
    start, end = literal(thoughts.start), literal(thoughts.end)
    before = "thoughts SPACE? " if thinking else f"({start} thoughts SPACE?)? "
    if end.startswith("<["):
        return before, [f"thoughts: THOUGHTS? {end}", r"THOUGHTS: /(?s:.)+/"]
    return before, [f"thoughts[lazy]: THOUGHTS {end}", r"THOUGHTS: /(?s:.)*/"]


def _call(style: ToolStyle, name: str, arguments: str, literal: Literal) -> str:
    """One call, without what stands around it."""
    if style.named:
        return f"{json.dumps(name)} {literal(style.name_end)} {arguments}"
    key, value = json.dumps(f'"{style.name_key}":'), json.dumps(json.dumps(name, ensure_ascii=False))
    id_before = r'"\"tool_call_id\":" " "? "\"" /[0-9]{1,3}/ "\"," " "? ' if style.name_key == "tool_name" else ""
    id_behind = rf' ("," " "? "\"id\":" " "? "\"" /[a-zA-Z0-9]{{{style.id_length}}}/ "\"")?' if style.id_length else ""
    start = "BARE" if style.bare else f'"{{" {id_before}{key}'
    args = json.dumps(f'"{style.args_key}":')
    return f'{start} " "? {value} "," " "? {args} " "? {arguments}{id_behind} "}}"'


def _generic(required: bool, parallel: bool) -> tuple[str, list[str]]:
    rules = [r'one: "{\"tool_call\":" " "? call "}"', rf'several: "{{\"tool_calls\":" " "? "[" {_several(", ")} "]}}"']
    rules.append(r'response: "{\"response\":" " "? text "}"')
    rules.append('text: %json {"type": "string"}')
    calls = "several" if parallel else "one"
    return (calls if required else f"{calls} | response"), rules


def _several(separator: str) -> str:
    return f"call ({json.dumps(separator)} call){{0,{MOST_CALLS - 1}}}"


def _marked(style: ToolStyle, literal: Literal, required: bool, parallel: bool) -> tuple[str, list[str]]:
    opener = literal(style.opener)
    closer = f" SPACE? {literal(style.closer)}" if style.closer else ""
    if style.listed:
        inner = _several(style.separator) if parallel else "call"
        behind, again = f'"[" SPACE? {inner} SPACE? "]"{closer}', ""
    else:
        behind = f"SPACE? call{closer}" if style.padding else f"call{closer}"
        again = f" (SPACE? {opener} {behind}){{0,{MOST_CALLS - 1}}}" if parallel and not style.bare else ""
    if style.bare:
        return _bare(style, literal, required, parallel)
    if required:
        return f"{opener} {behind}{again}", []
    if opener.startswith("<["):
        return f"TEXT? ({opener} {behind}{again})?", [_TEXT]
    rules = [f"opening[lazy]: ANY {opener}", _ANY, f"PLAIN: /(?s:.)+/ & ~(ANY {opener} ANY)"]
    return f"PLAIN? | opening {behind}{again}", rules


def _bare(style: ToolStyle, literal: Literal, required: bool, parallel: bool) -> tuple[str, list[str]]:
    """Calls that may stand at the beginning without an opener."""
    calls = _several(style.separator) if parallel else "call"
    # One lexeme, for it must not begin as a text may.
    bare = rf'\{{ ?"{style.name_key}":'
    rules = [f"BARE: /{bare}/"]
    if required:
        return calls, rules
    opener = literal(style.opener)
    rules.append(f"PLAIN: /(?s:.)+/ & ~/{bare}(?s:.)*/")
    marked = f" | PLAIN? {opener} {calls}" if opener.startswith("<[") else ""
    return f"PLAIN? | {calls}{marked}", rules
