"""llguidance at work: a vocabulary's trie, compiled grammars, and the state of one text."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from powerinfer_cli.sampling.grammars.grammar_error import GrammarError

__all__ = ["CompiledGrammar", "Matching", "Vocabulary"]

_NAMED = b"\xff"  # what llguidance puts before the names of special tokens; no text holds this byte
# llguidance else narrows the mask to one way of cutting forced text into tokens, which needs the real tokenizer.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'

_POSITION = re.compile(r'^(at )?\d+\(\d+\): | \(at ".*" \(.*\)\)$')  # in our own Lark, of which nobody else knows
_NO_TOKEN = re.compile(r"^Token range end too large: (\d+)$")
_MOST_SYMBOLS = 65_524  # llguidance numbers rules, alternatives and terminals with 16 bits
_STACK = 256 << 20  # bytes for MOST_NAMES names within names, twice over; address space, memory only as it is used
_starting = threading.Lock()  # the stack's size is set for the whole process


def _limits() -> LLParserLimits:
    """A tenth of a second a step and 100 MB a grammar, at worst."""
    return LLParserLimits(
        max_items_in_row=1000,  # 450 alternatives that begin alike take 0.1 s, and four times as long for each doubling
        step_max_items=30_000,  # where rows are that long, each costs 30 us
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


class Vocabulary:
    """The tokens as llguidance wants them. The last is one of our own, which stands for the end of the text."""

    def __init__(self, pieces: Sequence[bytes], eog_ids: frozenset[int], control: Mapping[int, bytes]) -> None:
        self.n_vocab = len(pieces)
        self.eog_ids = eog_ids
        self.eog = np.array(sorted(eog_ids), np.intp)
        self._pieces = pieces
        self._control = {**{i: pieces[i] for i in eog_ids}, **control}
        self._lock = threading.Lock()
        self._made: LLTokenizer | None = None
        self.compiling_s = 0.0  # of processors, so far

    @property
    def tokenizer(self) -> LLTokenizer:
        """Built once, at the first call."""
        with self._lock:
            if self._made is None:
                self._made = LLTokenizer(_Tokens(self._pieces, self._control))  # type: ignore[arg-type]  # duck-typed
            return self._made

    def clock(self) -> float:
        """Seconds of a processor for this thread and for all that was compiled."""
        return time.thread_time() + self.compiling_s

    @cached_property
    def silent(self) -> NDArray[np.intp]:
        """Tokens that write nothing, and so never bring a text further."""
        found = [i for i, piece in enumerate(self._pieces) if not piece and i not in self._control]
        return np.array(found, np.intp)

    @cached_property
    def silent_ids(self) -> frozenset[int]:
        return frozenset(self.silent.tolist())

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {piece: i for i, piece in reversed(list(enumerate(self._pieces)))} | {
            name: i for i, name in self._control.items()
        }

    def id_of(self, name: str) -> int | None:
        """The token that is written so."""
        return self._ids.get(name.encode("utf-8", "surrogatepass"))

    @cached_property
    def no_text(self) -> tuple[int, ...]:
        """Tokens that match only where a grammar names them, our own for the end included."""
        return (*sorted(self._control), self.n_vocab)


class _Tokens:
    """What LLTokenizer reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, pieces: Sequence[bytes], control: Mapping[int, bytes]) -> None:
        tokens = list(pieces)
        for i, name in control.items():
            tokens[i] = _NAMED + (name or b"[%d]" % i)
        self.eos_token_id = len(tokens)
        self.tokens = [*tokens, _NAMED + b"end of text"]
        self.special_token_ids = [*sorted(control), self.eos_token_id]

    def __call__(self, _text: bytes | str) -> list[int]:
        """Only forced text would be tokenized, and forcing is off."""
        return []


def _deep(call: Callable[[], LLMatcher]) -> tuple[LLMatcher, float]:
    """`call`, and its seconds of a processor, in a thread whose stack is large enough for what grammars may hold.

    llguidance would crash else.
    """
    result: list[tuple[LLMatcher, float]] = []
    with _starting:
        usual = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=lambda: result.append((call(), time.thread_time())), name="grammar")
            thread.start()
        finally:
            threading.stack_size(usual)
    thread.join()
    return result[0]


class CompiledGrammar:
    """A grammar that is known to match something."""

    def __init__(self, vocabulary: Vocabulary, kind: str, lark: str) -> None:
        self._vocabulary = vocabulary
        self._kind = kind
        self._lock = threading.Lock()  # llguidance's objects refuse a second caller
        grammar = LLMatcher.grammar_from_lark(lark + _OPTIONS)
        tokenizer = vocabulary.tokenizer
        self._matcher, seconds = _deep(lambda: LLMatcher(tokenizer, grammar, log_level=0, limits=_limits()))
        vocabulary.compiling_s += seconds
        if self._matcher.is_error():
            raise GrammarError(f"bad {kind}: {_one_line(self._matcher.get_error())}")
        if not self._possible():
            raise GrammarError(f"bad {kind}: no text of this vocabulary matches it")

    def _possible(self) -> bool:
        """Whether a text can begin, or be empty. Raises GrammarError where that is too hard to say."""
        first = self.new()
        try:
            return bool(first.allowed().any()) or first.may_end  # the mask in any case: it may be too expensive
        except GrammarError:
            if first.stuck:
                return False
            raise

    def new(self) -> Matching:
        with self._lock:
            return Matching(self._vocabulary, self._matcher.deep_copy(), self._kind)


class Matching:
    """A Constraint: one text against a compiled grammar."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher, kind: str) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._kind = kind
        self._ended = False

    @property
    def finished(self) -> bool:
        return self._ended or self._matcher.is_stopped()

    @property
    def stuck(self) -> bool:
        """Whether it was found that nothing can follow, though the text is not complete."""
        return self._matcher.get_error().startswith("NoExtension")

    def allows(self, token: int) -> bool:
        if self._continues(token):
            return True
        return token in self._vocabulary.eog_ids and self.may_end

    def allowed(self) -> NDArray[np.bool_]:
        n_vocab = self._vocabulary.n_vocab
        flags = np.zeros(n_vocab, np.bool_)
        if not self.finished:
            words = np.zeros(n_vocab // 32 + 1, np.int32)
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            self._check()
            flags = np.unpackbits(words.view(np.uint8), count=n_vocab, bitorder="little").view(np.bool_)
            flags[self._vocabulary.silent] = False
        if self.may_end:
            flags[self._vocabulary.eog] = True
        return flags

    def accept(self, token: int) -> None:
        if self._continues(token):
            self._matcher.consume_token(token)
            self._check()
        elif self.allows(token):
            self._ended = True
        else:
            raise GrammarError(f"token {token} does not fit the {self._kind}")

    @property
    def may_end(self) -> bool:
        return self.finished or self._matcher.is_accepting()

    def _continues(self, token: int) -> bool:
        if self.finished or token in self._vocabulary.silent_ids:
            return False
        fits = self._matcher.validate_tokens([token]) == 1
        self._check()
        return fits

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = "no token can follow" if self.stuck else _one_line(self._matcher.get_error())
            raise GrammarError(f"the {self._kind} cannot be followed: {reason}")


def _one_line(message: str) -> str:
    """llguidance's own words without its excerpts and positions of what we have put around the grammar.

    Where it has given up by a panic the words are ours: its own are of its source.
    """
    if message.startswith("panic:"):
        if "symbols.len()" in message:
            return f"too many alternatives and groups: with their parts they are more than {_MOST_SYMBOLS}"
        return "it is more than can be held"
    first, *rest = message.strip().split("\n")
    reasons = [line for line in rest if line.startswith("error: ")]  # of a regex: below an excerpt of it
    if reasons and first.endswith("regex parse error:"):
        first = first.removesuffix(" parse error:") + reasons[0].removeprefix("error")
    first = _POSITION.sub("", first)
    first = _NO_TOKEN.sub(r"the vocabulary has no token \1", first)
    return first.removeprefix("failed to compile JSON schema: ")[:300]
