"""Grammars and schemas that are small, and dear to understand or to follow, if nothing is bounded.

Each function takes the server's base URL, sends its request once, reads what comes for some seconds at most, and goes.
It returns the status (0: none came in time): 200 where it is answered after all, else 400.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from scripts.soaking.hostile_slots import send

__all__ = ["HOSTILE_GRAMMARS"]

N_PREDICT = 8
BASE = 0x4E00  # characters from here on, each of which is a class of its own


def _classes(n: int, one: str) -> str:
    return " | ".join(one.format(chr(BASE + i), chr(BASE + i + 1)) for i in range(n))


def _nested(n: int, around: Callable[[Any], Any]) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(n):
        schema = around(schema)
    return schema


def _chain(n: int, link: Callable[[Any], Any]) -> dict[str, Any]:
    names = {f"a{i}": link({"$ref": f"#/$defs/a{i + 1}"}) for i in range(n)}
    return {"$ref": "#/$defs/a0", "$defs": {**names, f"a{n}": {"type": "null"}}}


def _conditions(n: int) -> list[dict[str, Any]]:
    then = {"properties": {f"p{i}": {"type": "null"} for i in range(50)}}
    return [{"if": {"properties": {"k": {"enum": [*range(i)]}}}, "then": then} for i in range(n)]


def _kinds(n: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": {"enum": [*range(n)]}}, "required": ["k"], "allOf": _conditions(n)}


BAD = {"type": "string", "pattern": "(?!a)b"}
GRAMMARS = {
    "classes, repeated": f"root ::= ({_classes(20_000, '[{0}{1}a]')})*",
    "sequences, repeated": f"root ::= ({_classes(20_000, '[{0}a] [{1}b]')})*",
    "classes that may be missing": f"root ::= {_classes(20_000, '[{0}]?').replace('|', '')}",
    "words, repeated": "root ::= (" + " | ".join(f'"w{i}"' for i in range(20_000)) + ")*",
    "large rules in many": "root ::= (" + " | ".join(f'"{i}" r' for i in range(4000)) + ")*\nr ::= " + '"a"? ' * 400,
    "long optional repetitions": "root ::= " + "[a-z]{0,2000} " * 1000,
    "rules that match alike": "root ::= (" + " | ".join(f"r{i}" for i in range(1000)) + ")*\n"
    + "\n".join(f'r{i} ::= "a" r{i * 7 % 1000} | "a"' for i in range(1000)),
    "ambiguous": 'root ::= root root | root root root | "a" | [a-z ]+',
    "parentheses and names": "".join(
        f'a{i} ::= {"(" * 60}"a" a{i + 1}{")?{2}" * 60}\n' for i in range(99)
    ) + 'a99 ::= "b"\nroot ::= a0',
    "long text": "#" * 1_000_000 + '\nroot ::= "a"',
}  # fmt: skip
SCHEMAS: dict[str, Any] = {
    "products of alternatives": {
        "allOf": [{"anyOf": [{"properties": {f"{c}{i}": {"type": "null"}}} for c in "ab"]} for i in range(20)]
    },
    "chain of references": _chain(1000, lambda ref: {"type": "object", "properties": {"x": ref}, "required": ["x"]}),
    "doubled references": _chain(40, lambda ref: {"anyOf": [ref, {"type": "array", "items": ref}]}),
    "nested alternatives": _nested(14, lambda one: {"anyOf": [one, {"type": "array", "items": one}]}),
    "many values": {"enum": [f"v{i}" for i in range(50_000)]},
    "many properties": {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(5000)}},
    "counts of counts": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "pattern that looks far back": {"type": "string", "pattern": "^.*a.{1,100000}$"},
    "many items": {"type": "array", "items": {"type": "array", "minItems": 10**6}, "minItems": 10**6},
    "conditions": _kinds(60),
    "dependencies": {
        "type": "object",
        "properties": {f"p{i}": {"type": "null"} for i in range(300)},
        "dependentRequired": {f"p{i}": [f"p{j}" for j in range(300)] for i in range(3)},
    },
    "alternatives that exclude each other": {
        "oneOf": [{"properties": {"k": {"enum": [*range(i * 99, i * 99 + 99)]}}, "required": ["k"]} for i in range(64)]
    },
}
TOOLS: dict[str, Any] = {
    "faults everywhere": {"type": "object", "properties": {f"p{i}": {**BAD, "maxLength": i} for i in range(3000)}},
    "faults far down": _nested(12, lambda one: {"type": "object", "properties": {"a": one, "b": one, "c": BAD}}),
    "a fault in a large schema": {
        "type": "object",
        "properties": {"a": BAD, **{f"p{i}": {"enum": [f"{i}-{j}" for j in range(100)]} for i in range(90)}},
    },
}


def _grammar(text: str, url: str) -> int:
    return send(url, "/completion", {"prompt": "a", "n_predict": N_PREDICT, "grammar": text})


def _schema(schema: Any, url: str) -> int:
    return send(url, "/completion", {"prompt": "a", "n_predict": N_PREDICT, "json_schema": schema})


def _tool(schema: Any, url: str) -> int:
    tools = [{"type": "function", "function": {"name": f"t{i}", "parameters": schema}} for i in range(2)]
    messages = [{"role": "user", "content": "Hello"}]
    body = {"messages": messages, "max_tokens": N_PREDICT, "tools": tools, "tool_choice": "required"}
    return send(url, "/v1/chat/completions", body)


HOSTILE_GRAMMARS: dict[str, Callable[[str], int]] = {
    **{f"grammar: {name}": partial(_grammar, text) for name, text in GRAMMARS.items()},
    **{f"schema: {name}": partial(_schema, schema) for name, schema in SCHEMAS.items()},
    **{f"tool: {name}": partial(_tool, schema) for name, schema in TOOLS.items()},
}
