"""Which parts of a JSON schema cannot be held, found by trying: what is left without them can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from powerinfer_cli.printable import printable

__all__ = ["Fault", "without_faults"]

_MOST_TRIES = 100
_MOST_CHARACTERS = 200_000  # of all that is tried
_LONGEST_S = 1.0  # of a processor, for schemas that are small and dear; others take a tenth
_CONTEXT = ("$defs", "definitions")
_NAMED = (*_CONTEXT, "properties", "patternProperties")
_ONE = ("items", "additionalProperties")
_SEVERAL = ("items", "prefixItems", "anyOf", "oneOf", "allOf")
_LAST = ("type", "properties", *_CONTEXT)  # to be left out when nothing else helps


@dataclass(frozen=True)
class Fault:
    """Where it is, as properties.a.pattern; "" for all of the schema."""

    where: str
    reason: str

    def __str__(self) -> str:
        where = printable(self.where[:200])
        return f"{where}: {self.reason}" if where else self.reason


def without_faults(
    schema: dict[str, Any], check: Callable[[Any], str | None], clock: Callable[[], float]
) -> tuple[dict[str, Any], list[Fault]]:
    """`schema` without what check() refuses, and what that is; {"type": "object"} where it takes too long to say.

    check: what is wrong with a schema, or None. clock: the processor's seconds for it.
    """
    search = _Search(
        check, clock, clock() + _LONGEST_S, {key: schema[key] for key in _CONTEXT if isinstance(schema.get(key), dict)}
    )
    try:
        mended = search.mend(schema, "")
    except RecursionError:
        return {"type": "object"}, [Fault("", "it is nested too deeply")]
    kind = mended.get("type", "object") if isinstance(mended, dict) else None
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        return {**mended, "type": "object"} if isinstance(kind, list) else mended, search.faults
    return {"type": "object"}, search.faults or [Fault("", "it describes no object")]


@dataclass
class _Search:
    check: Callable[[Any], str | None]
    clock: Callable[[], float]
    end: float
    context: dict[str, Any]
    tries: int = _MOST_TRIES
    characters: int = _MOST_CHARACTERS
    faults: list[Fault] = field(default_factory=list)

    def mend(self, schema: Any, path: str) -> Any:
        """What can be held of `schema`."""
        reason = self._reason(schema)
        if reason is None:
            return schema
        if isinstance(schema, dict):
            mended = self._with_parts(schema, path)
            if mended != schema:
                other = self._reason(mended)
                if other is None:
                    return mended
                reason = other
            for key in sorted(mended, key=_LAST.__contains__):
                rest = {name: value for name, value in mended.items() if name != key}
                if key == "pattern":
                    rest.setdefault("type", "string")
                if self._reason(rest) is None:
                    self.faults.append(Fault(f"{path}.{key}".lstrip("."), reason.removeprefix(f"{key}: ")))
                    return rest
        self.faults.append(Fault(path, reason))
        return {} if path else {"type": "object"}

    def _with_parts(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """With the schemas in it mended; those that others refer to first."""
        mended = dict(schema)
        for key, index, part in _parts(schema):
            where = f"{path}.{key}".lstrip(".")
            if index is None:
                mended[key] = self.mend(part, where)
            elif isinstance(index, str):
                mended[key] = {**mended[key], index: self.mend(part, f"{where}.{index}")}
                if not path and key in _CONTEXT:
                    self.context[key] = mended[key]
            else:
                mended[key] = [*mended[key][:index], self.mend(part, f"{where}[{index}]"), *mended[key][index + 1 :]]
        return mended

    def _reason(self, schema: Any) -> str | None:
        """What is wrong with it, in the company of what it may refer to."""
        if not isinstance(schema, dict):
            return None if isinstance(schema, bool) else "it is no schema"
        whole = {**self.context, **schema}
        self.tries -= 1
        self.characters -= len(repr(whole))
        if self.tries < 0 or self.characters < 0 or self.clock() > self.end:
            return "it is too large to look for what is wrong with it"
        return self.check(whole)


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, str | int | None, Any]]:
    """The schemas directly in a schema: (keyword, name or number where there are several, schema)."""
    for key in _NAMED:
        if isinstance(schema.get(key), dict):
            yield from ((key, name, part) for name, part in schema[key].items())
    for key in _ONE:
        if isinstance(schema.get(key), dict):
            yield key, None, schema[key]
    for key in _SEVERAL:
        if isinstance(schema.get(key), list):
            yield from ((key, i, part) for i, part in enumerate(schema[key]))
