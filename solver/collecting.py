"""What predictors are made from: collected in a pass of its own, or while the text is read for a profile."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime import LoadEvents
from solver.predictor import Buffer, collect
from solver.predictor.buffer import collecting_beside
from solver.profile import ActiveRule, Chunks, made_of
from solver.profile.recording import Recordable, Watcher

__all__ = ["Collection", "places_of"]

BUFFER_BYTES = 8 << 30


@dataclass(frozen=True)
class Collection:
    """chunks: those to train on. model: its fingerprint."""

    config: ModelConfig
    model: str
    chunks: Chunks
    folder: Path
    rule: ActiveRule
    events: LoadEvents

    @property
    def _made_with(self) -> dict[str, Any]:
        return {"model": self.model, "text": made_of(self.chunks), "active": self.rule.name}

    def whole(self, open_engine: Callable[[], Recordable]) -> Buffer:
        """All of it; what is there is kept. Raises PowerInferError: no room."""
        given = self.chunks, self.folder, self.rule, self._made_with, self.events
        return collect(self.config, open_engine, *given, most_bytes=BUFFER_BYTES)

    def beside(self, text: Chunks) -> AbstractContextManager[Watcher]:
        """While all of a text is read. Raises PowerInferError: no room."""
        given = self.folder, self.rule, self._made_with, self.events
        return collecting_beside(
            self.config, self.chunks, places_of(text, self.chunks), *given, most_bytes=BUFFER_BYTES
        )


def places_of(text: Chunks, chosen: Chunks) -> Mapping[int, int]:
    """Which of the chosen chunks, that are in a text's order, each of its chunks is, by number."""
    found: dict[int, int] = {}
    for number, chunk in enumerate(text):
        if len(found) < len(chosen) and list(chunk) == list(chosen[len(found)]):
            found[number] = len(found)
    return found
