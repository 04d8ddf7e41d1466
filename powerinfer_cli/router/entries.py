"""What a router can load: a model's name, and the words that start a server of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from powerinfer_cli.errors import PowerInferError

__all__ = ["Catalog", "Entry", "Source", "Start", "without_tokens"]

TOKENS, HIDDEN = ("-hft", "--hf-token"), "***"  # flags whose values are nobody else's affair


class Source(StrEnum):
    """How a router knows of a model, as llama-server tells it."""

    PRESET = "preset"
    FOLDER = "models_dir"
    CACHE = "cache"


@dataclass(frozen=True)
class Start:
    """How an entry's process is started, but for where it listens. words: flags of `powerinfer server`. preset: the
    same as a section of a preset's file.

    stop_s: seconds after which a process that was told to end is killed. on_startup: it is loaded at once.
    """

    words: tuple[str, ...] = ()
    preset: str = ""
    stop_s: float = 10.0
    on_startup: bool = False


@dataclass(frozen=True)
class Entry:
    """A model that requests may name. path: of its file, None where the process finds it itself (-hf).

    size: bytes of its files, 0 where that is not known. hidden: it can be asked for, but is not listed.
    """

    name: str
    start: Start
    path: Path | None = None
    source: Source = Source.PRESET
    size: int = 0
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hidden: bool = False


@dataclass(frozen=True)
class Catalog:
    """Entries by name, in order of names; and which of them other names mean."""

    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Catalog":
        """Raises PowerInferError: two of one name."""
        found: dict[str, Entry] = {}
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name in found:
                places = " and ".join(str(one.path or "-hf") for one in (found[entry.name], entry))
                raise PowerInferError(f"two models are called {entry.name}: {places}: rename one of them")
            found[entry.name] = entry
        aliases: dict[str, str] = {}
        for entry in found.values():
            for alias in entry.aliases:
                other = alias if alias in found else aliases.get(alias)
                if other is not None:
                    raise PowerInferError(f"the alias {alias} of {entry.name} is a name of {other}, too: take another")
                aliases[alias] = entry.name
        return cls(found, aliases)

    def find(self, name: str) -> Entry | None:
        """By its name or an alias."""
        return self.entries.get(self.aliases.get(name, name))


def without_tokens(words: Sequence[str]) -> list[str]:
    """Words of a command line as clients may see them: the hub's tokens are the owner's."""
    shown = []
    for before, word in pairwise(["", *words]):
        name, equals, _ = word.partition("=")
        secret = HIDDEN if before in TOKENS else f"{name}={HIDDEN}" if equals and name in TOKENS else word
        shown.append(secret)
    return shown
