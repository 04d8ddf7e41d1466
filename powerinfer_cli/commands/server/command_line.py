"""The command line of a server as words again: a router hands its own on to its models' servers."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CommandLine", "Flag", "current", "flags_of", "groups", "without"]


@dataclass(frozen=True)
class Flag:
    """on, off: its words for a switch; `off` None for what takes a value."""

    on: str
    off: str | None = None


@dataclass(frozen=True)
class CommandLine:
    """words: as they were given, but for what has no effect; known: all flags, by their names without dashes."""

    words: tuple[str, ...] = ()
    known: dict[str, Flag] = field(default_factory=dict)

    def takes_value(self, word: str) -> bool:
        """Is the next word its value?"""
        flag = self.known.get(word.lstrip("-"))
        return flag is not None and flag.off is None


current: ContextVar[CommandLine] = ContextVar("command line")


def flags_of(params: Iterable[Any]) -> dict[str, Flag]:
    """By the names without dashes of click's options; a switch is known by its name for off, too."""
    known: dict[str, Flag] = {}
    for param in params:
        switch = getattr(param, "is_flag", False)
        offs = list(getattr(param, "secondary_opts", ()))
        for name in param.opts:
            known[name.lstrip("-")] = Flag(name, (offs[0] if offs else "") if switch else None)
        for name in offs:
            known[name.lstrip("-")] = Flag(name, param.opts[0])
    return known


def without(line: CommandLine, names: Collection[str]) -> list[str]:
    """The words but for some flags, which are named without dashes, and their values."""
    return [word for group in groups(line) if group[0].partition("=")[0].lstrip("-") not in names for word in group]


def groups(line: CommandLine) -> Iterator[Sequence[str]]:
    """Each flag with its value."""
    words = iter(line.words)
    for word in words:
        value = next(words, None) if line.takes_value(word) else None
        yield [word] if value is None else [word, value]
