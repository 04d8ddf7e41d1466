"""Constrained output: what a grammar or a JSON schema lets the next token be. llguidance does the matching.

llguidance rather than xgrammar: it needs nothing but itself (xgrammar brings torch extensions and transformers), knows
more of JSON schema, compiles in milliseconds for any vocabulary, and bounds what a hostile grammar may cost.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.sampling.grammars.gbnf import gbnf_to_lark
from powerinfer_cli.sampling.grammars.grammar_error import MOST_NAMES, GrammarError
from powerinfer_cli.sampling.grammars.json_schema import ANY_OBJECT, ReadSchema, read_schema
from powerinfer_cli.sampling.grammars.matching import CompiledGrammar, Vocabulary
from powerinfer_cli.sampling.grammars.schema_faults import without_faults
from powerinfer_cli.sampling.recent import RecentCache

__all__ = ["Constraint", "GrammarError", "Grammars", "NewConstraint", "NotKeptError", "only_kept"]

# Characters of compiled grammars, 20 to 75 bytes each. A client that asks again and again sends the same few.
_MOST_KEPT, _FEW = 200_000, 50_000
_SMALLEST = 2000  # as so many characters, a grammar counts at least
_MOST_REFUSED = 100_000  # characters of what was wrong
_MOST_WARNED = 1000  # lines that are not said again
_LONGEST_TEXT = 1 << 20  # characters of a grammar
_DEFINITION = re.compile(r"(?m)^[ \t]*[A-Za-z_]\w*[^\n:]*:")  # of a Lark rule or terminal


only_kept: ContextVar[bool] = ContextVar("only_kept", default=False)
"""Whether Grammars raise NotKeptError for what would have to be compiled first."""


class NotKeptError(Exception):
    """It is not known, and was not to be compiled."""


class Constraint(Protocol):
    """The state of one text that must match. Tokens that end a text are allowed where it may end.

    Any call may raise GrammarError: matching became more expensive than its limits allow, or no token of the
    vocabulary can write what must follow. That ends this text, and nothing else.
    """

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing can follow: only tokens that end it are allowed from here.

        A vocabulary may have none of these; then allowed() is all False, and the caller must look here first.
        """

    def allows(self, token: int) -> bool:
        """Whether the text may go on with this token."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens the text may go on with, [n_vocab]; at least one unless `finished`."""

    def accept(self, token: int) -> None:
        """The text has gone on with this token, which was allowed."""


NewConstraint: TypeAlias = Callable[[], Constraint]
"""Makes the state of a text that has not begun. May be called in any thread; each state belongs to one."""


class Grammars:
    """Grammars for one vocabulary. May be used by several threads.

    What comes back is compiled and known to match something; GrammarError says in one line what is wrong. The most
    recent ones are kept.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        eog_ids: frozenset[int],
        control: Mapping[int, bytes],
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Cheap: the vocabulary's trie is built when the first grammar comes.

        pieces: each token's bytes in a text; those of control tokens are not looked at. eog_ids: the tokens that end a
        text. control: the tokens that are no text, with their names; no text matches these, nor any end-of-text token.
        warn: takes a line, once, on each part of a schema that is not held.
        """
        self._vocabulary = Vocabulary(pieces, eog_ids, control)
        self._kept = RecentCache[CompiledGrammar](_MOST_KEPT)
        self._refused = RecentCache[str](_MOST_REFUSED)
        self._mended = RecentCache[tuple[ReadSchema, tuple[str, ...]]](_MOST_KEPT)
        self._warn = warn
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def gbnf(self, text: str) -> NewConstraint:
        """A grammar as llama.cpp writes them. Left recursion is fine too."""
        return self._get("grammar", text, lambda: gbnf_to_lark(text, self._vocabulary.id_of, self._vocabulary.no_text))

    def json_schema(self, schema: Any) -> NewConstraint:
        """JSON that a schema describes; see `read_schema` for what is made of it."""
        read = read_schema(schema)
        for line in read.loose:
            self.warn(f"JSON schema: {line}")
        lark = _lark_of(read)
        try:
            return self._get("JSON schema", lark, lambda: lark)
        except GrammarError as error:
            reason = str(error)
        raise self._once("a fault", lark, partial(self._with_place, schema, reason))

    def json_object(self) -> NewConstraint:
        """Any JSON object."""
        return self.json_schema(ANY_OBJECT)

    def lark(self, text: str, kind: str = "grammar") -> NewConstraint:
        """A grammar in llguidance's variant of Lark, with `start`, %json {...}, and <name> or <[id]> for tokens.

        kind: what errors call it.
        """
        return self._get(kind, text, lambda: _checked(text, kind))

    def mended_schema(self, schema: dict[str, Any], where: str) -> str:
        """For %json: as much of an object's schema as can be held. `where` it is, for the warnings of the rest."""
        key = json.dumps(schema, default=str)
        with self._lock:
            found = self._mended.get(key)
        if found is None:
            if only_kept.get():
                raise NotKeptError
            found = self._mend(schema)
            with self._lock:
                self._mended.put(key, value=found, size=_SMALLEST + len(found[0].text) + sum(map(len, found[1])))
        read, faults = found
        for line in (*faults, *(f".{line}" for line in read.loose)):
            self.warn(f"{where}{line}")
        return read.text

    def keep_few(self) -> None:
        """Drop all but what was used last: some megabytes."""
        with self._lock:
            self._kept.shrink(_FEW)
            self._mended.shrink(_FEW)

    def _mend(self, schema: dict[str, Any]) -> tuple[ReadSchema, tuple[str, ...]]:
        mended, faults = without_faults(schema, self._fault, self._vocabulary.clock)
        lines = (f".{fault}" if fault.where else f": {fault}" for fault in faults)
        return read_schema(mended), tuple(f"{line} (it is left out)" for line in lines)

    def _fault(self, schema: Any) -> str | None:
        """What is wrong with it, in the compiler's words."""
        try:
            CompiledGrammar(self._vocabulary, "JSON schema", _lark_of(read_schema(schema)))
        except GrammarError as error:
            return str(error).removeprefix("bad JSON schema: ")
        except RecursionError:
            return "it is nested too deeply"
        return None

    def _with_place(self, schema: dict[str, Any], reason: str) -> str:
        """What is wrong with a schema that was read, and where in it that is."""
        _, faults = without_faults(schema, self._fault, self._vocabulary.clock)
        return f"bad JSON schema: {faults[0]}" if faults and faults[0].where else reason

    def warn(self, line: str) -> None:
        """Once: it is not said again."""
        with self._lock:
            new = line not in self._warned and len(self._warned) < _MOST_WARNED
            self._warned.add(line) if new else None
        if new:
            self._warn(line)

    def _once(self, kind: str, key: str, reason: Callable[[], str]) -> GrammarError:
        """What is wrong with a grammar, found once: clients that are refused try again.

        To be raised where no other error is at hand, as it would hold that one with all that was at work then.
        """
        with self._lock:
            known = self._refused.get(kind, key)
        if known is not None:
            return GrammarError(known)
        found = reason()
        with self._lock:
            self._refused.put(kind, key, value=found, size=200 + len(found))
        return GrammarError(found)

    def _get(self, kind: str, key: str, lark: Callable[[], str]) -> NewConstraint:
        with self._lock:
            found = self._kept.get(kind, key)
            refused = self._refused.get(kind, key)
        if found is not None:
            return found.new
        if refused is not None:
            raise GrammarError(refused)
        if only_kept.get():
            raise NotKeptError
        if len(key) > _LONGEST_TEXT:
            raise GrammarError(f"the {kind} is too long: {len(key)} characters, {_LONGEST_TEXT} are the limit")
        try:
            compiled = CompiledGrammar(self._vocabulary, kind, lark())
            with self._lock:
                self._kept.put(kind, key, value=compiled, size=_SMALLEST + len(key))
            return compiled.new
        except RecursionError:
            reason = f"bad {kind}: it is nested too deeply"
        except GrammarError as error:
            reason = str(error)
        raise self._once(kind, key, lambda: reason)


def _lark_of(schema: ReadSchema) -> str:
    return f"start: %json {schema.text}\n"


def _checked(lark: str, kind: str) -> str:
    if len(_DEFINITION.findall(lark)) > MOST_NAMES:
        raise GrammarError(f"bad {kind}: more than {MOST_NAMES} names")
    return lark
