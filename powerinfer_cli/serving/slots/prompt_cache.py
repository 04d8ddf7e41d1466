"""Texts that have left their slot, and their part of the KV cache, in main memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.serving.slots.counters import CachedTexts
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.slots.scheduler import LEAST_SIMILAR, spared
from powerinfer_cli.system.memory import available_memory

__all__ = ["CachedText", "Match", "PromptCache", "prompt_cache_of"]

Ids = npt.NDArray[np.int32]

MOST_TEXTS = 1000  # so that a look through all of them takes some milliseconds


@dataclass(frozen=True, eq=False)
class CachedText:
    """What a slot had read. stored: as an engine's `save` gave it."""

    ids: Ids
    stored: Mapping[str, npt.NDArray[Any]]

    @property
    def n_bytes(self) -> int:
        return self.ids.nbytes + sum(part.nbytes for part in self.stored.values())


@dataclass(frozen=True)
class Match:
    """A text, and how many of a prompt's first tokens need not be read behind it."""

    text: CachedText
    n: int


class PromptCache:
    """Of one engine; for its thread only, but for `counts`. Texts that were used longest ago make room.

    What it holds is never more than `most_bytes`, and no more than it leaves free of the memory that there is.
    """

    def __init__(
        self, engine: EngineLike, most_bytes: int | None, available: Callable[[], int] = available_memory
    ) -> None:
        """most_bytes: None for no limit but memory. available: bytes of memory that are free."""
        self._engine, self._most, self._available = engine, most_bytes, available
        self._texts: list[CachedText] = []  # the one that was used last is last
        self._n_bytes = self._kept = self._restored = self._dropped = 0

    @property
    def counts(self) -> CachedTexts:
        """May be asked for by any thread."""
        return CachedTexts(len(self._texts), self._n_bytes, self._kept, self._restored, self._dropped)

    def continue_from(self, counts: CachedTexts) -> None:
        """Count on from what another one has counted."""
        self._kept, self._restored, self._dropped = counts.kept, counts.restored, counts.dropped

    def match(self, prompt: Sequence[int], known: int = 0) -> Match | None:
        """The text that spares a prompt the most, where that is worth copying it. known: spared without it."""
        ids = np.asarray(prompt, np.int32)
        found = [Match(one, self._regained(one, spared(_common(ids, one.ids), len(ids)))) for one in self._texts]
        best = max(reversed(found), key=lambda one: one.n, default=None)  # of equal ones the last used
        return best if best is not None and best.n > known + LEAST_SIMILAR * len(prompt) else None

    def keep(self, sequence: int, beside: CachedText | None = None) -> bool:
        """Copy what a sequence holds, where there is room for it. Whether it is here now. beside: that is to stay."""
        ids = np.array(self._engine.tokens_of(sequence), np.int32)
        if not len(ids):
            return False
        for text in self._texts:
            if self._covers(text, ids):
                self._use(text)
                return True
        if not self._make_room(ids.nbytes + self._engine.saved_bytes(sequence), beside):
            return False
        text = CachedText(ids, self._engine.save(sequence))
        for other in [one for one in self._texts if one is not beside and self._covers(text, one.ids)]:
            self._remove(other)
        self._texts.append(text)
        self._n_bytes += text.n_bytes
        self._kept += 1
        return True

    def restore(self, match: Match, sequence: int) -> None:
        """Let a sequence hold a text, or as much of it as is needed. The text stays here where more than half of it is
        not. Raises PowerInferError: there is no room for it in the engine.
        """
        text, n = match.text, self.needed(match)
        stored = text.stored if n == len(text.ids) else {name: part[:n] for name, part in text.stored.items()}
        self._engine.restore(sequence, text.ids[:n].tolist(), stored)
        self._restored += 1
        if 2 * match.n < len(text.ids):
            self._use(text)
        else:
            self._remove(text)

    def needed(self, match: Match) -> int:
        """Tokens of a text that a sequence has to have room for."""
        return match.n if self._engine.keeps_all else len(match.text.ids)

    def drop(self, text: CachedText) -> None:
        """Nobody can have it."""
        self._remove(text)
        self._dropped += 1

    def _make_room(self, n_bytes: int, beside: CachedText | None) -> bool:
        """For so many bytes, if that can be."""
        most = (self._available() + self._n_bytes) // 2
        if self._most is not None:
            most = min(most, self._most)
        if n_bytes + (0 if beside is None else beside.n_bytes) > most:
            return False
        for text in [one for one in self._texts if one is not beside]:
            if self._n_bytes + n_bytes <= most and len(self._texts) < MOST_TEXTS:
                break
            self.drop(text)
        return True

    def _covers(self, text: CachedText, ids: Ids) -> bool:
        """Whether whoever has a text can go on from these tokens."""
        n = len(ids)
        return _common(ids, text.ids) == n and self._regained(text, n) == n

    def _regained(self, text: CachedText, n: int) -> int:
        return self._engine.regained(n, len(text.ids), text.stored) if n else 0

    def _use(self, text: CachedText) -> None:
        self._texts.remove(text)
        self._texts.append(text)

    def _remove(self, text: CachedText) -> None:
        self._texts.remove(text)
        self._n_bytes -= text.n_bytes


def _common(a: Ids, b: Ids) -> int:
    """How many ids the two begin with together."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    at = int(differ.argmax()) if n else 0
    return at if n and differ[at] else n


def prompt_cache_of(engine: EngineLike, mib: int) -> PromptCache | None:
    """As --cache-ram says it: negative for no limit but memory, 0 for none. Encoders keep nothing of texts."""
    if mib == 0 or not engine.config.causal:
        return None
    return PromptCache(engine, mib << 20 if mib > 0 else None)
