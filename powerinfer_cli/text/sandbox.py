"""Jinja for templates that come from strangers: no access to Python, and an end to whatever they compute.

jinja2's sandbox keeps a template from reaching anything; it does not keep it from looping or filling the memory. So
each compilation and each rendering has an amount of work: loop items, calls, filters and outputs cost some, and 1 more
for every 64 characters or items they produce; where a few characters can ask for a huge result, it is paid in advance.
"""

import json
import re
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = ["TemplateEnvironment"]

WORK = 1_000_000
PER_STEP = 64
PER_CALL = 5
UNTOLD_LENGTH = 100_000
_COUNTING = frozenset({"batch", "center", "indent", "ljust", "rjust", "slice", "tojson", "wordwrap", "zfill"})
"""Calls whose whole numbers, after the first argument, are widths or counts."""
_FORBIDDEN_TEXT_METHODS = frozenset({"expandtabs", "format_map", "translate"})

_work_left: ContextVar[int] = ContextVar("_work_left", default=WORK)


def _spend(amount: int) -> None:
    left = _work_left.get() - amount
    _work_left.set(left)
    if left < 0:
        raise TemplateError("it does too much work (an endless loop, or a huge text)")


def _spend_on(value: object) -> None:
    _spend(1 + (len(value) // PER_STEP if isinstance(value, Sized) else 0))


def _length(value: object) -> int:
    """Characters or items; a lot for what does not tell."""
    return len(value) if isinstance(value, Sized) else UNTOLD_LENGTH


def _foreseen_size(name: str, values: list[Any]) -> int:
    """Characters or items that the call of `name` may make beyond those it is given."""
    subject = values[0] if values else None
    if name in _COUNTING:
        return sum(abs(value) for value in values[1:] if isinstance(value, int))
    if name == "join" and len(values) >= 2:
        return _length(values[0]) * _length(values[1])
    if name == "replace" and len(values) >= 3 and all(isinstance(value, str) for value in values[:3]):
        return int(values[0].count(values[1]) * len(values[2]))
    if name == "format" and isinstance(subject, str):
        widths = sum(int(number[:18]) for number in re.findall(r"\d+", subject))
        if "*" in subject or re.search(r"\{[^{}]*\{", subject):
            widths += sum(abs(value) for value in values[1:] if isinstance(value, int))
        return widths
    return 0


def _spend_on_call(name: str, values: list[Any]) -> None:
    _spend(PER_CALL)
    for value in values:
        _spend_on(value)
    _spend(_foreseen_size(name, values) // PER_STEP)


def _bounded(name: str, function: Callable[..., Any], *owner: str) -> Callable[..., Any]:
    """`function` at a price; `owner` is the text whose method it is."""

    @wraps(function)
    def bounded(*arguments: Any, **named: Any) -> Any:
        values = [value for value in arguments if not isinstance(value, Environment | Context | nodes.EvalContext)]
        _spend_on_call(name, [*owner, *values, *named.values()])
        result = function(*arguments, **named)
        _spend_on(result)
        return result

    return bounded


def _counted(items: Any) -> Iterator[Any]:
    for item in items:
        _spend(1)
        yield item


def _shown(value: Any) -> Any:
    _spend_on(value)
    return value


def _concatenated(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    _spend(1 + sum(map(len, texts)) // PER_STEP)
    return "".join(texts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: not for HTML, so nothing is escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


class _GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %}, which marks text for training, is its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Metering(NodeTransformer):
    """Makes loops, outputs and `~` cost work."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        node.iter = _filtered(node.iter, "_counted")
        return self.generic_visit(node)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else _filtered(part, "_shown") for part in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """What chat templates expect: transformers' settings, filters and functions."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock])
        self.filters["tojson"] = _tojson
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {"_counted": _counted, "_shown": _shown, "_concatenated": _concatenated}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    @contextmanager
    def metered(self) -> Iterator[None]:
        """Work done inside is counted from zero."""
        token = _work_left.set(WORK)
        try:
            yield
        finally:
            _work_left.reset(token)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Metering().visit(super()._parse(source, name, filename))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As in jinja2's sandbox, less the methods of texts that multiply lengths."""
        if isinstance(obj, str) and attr in _FORBIDDEN_TEXT_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Texts' `format`, which jinja2 replaces by a safe one that does not tell its text."""
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None
        return _bounded("format", formatted, value.__self__)

    def call(self, context: Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Every call in a template comes through here."""
        owner = getattr(function, "__self__", None)
        own = [owner] if isinstance(owner, str) else []
        _spend_on_call(getattr(function, "__name__", ""), [*own, *arguments, *named.values()])
        result = super().call(context, function, *arguments, **named)
        _spend_on(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Every binary operator in `intercepted_binops` comes through here."""
        _spend_on(left)
        _spend_on(right)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _spend((left.bit_length() * abs(right) // PER_STEP) ** 2)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _spend((left.bit_length() // PER_STEP) * (right.bit_length() // PER_STEP))
        elif operator == "*":
            _spend(_repeated_size(left, right) // PER_STEP)
        elif operator == "%":
            _spend_on_call("format", [left, *(right if isinstance(right, tuple) else [right])])
        return super().call_binop(context, operator, left, right)


def _repeated_size(left: object, right: object) -> int:
    if isinstance(left, Sized) and isinstance(right, int):
        return len(left) * abs(right)
    if isinstance(right, Sized) and isinstance(left, int):
        return len(right) * abs(left)
    return 0
