"""Which replica has read how much of a conversation: by hashes of its beginning, one a block of text."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Holders", "Load", "best", "prefix_of"]

BLOCK = 256  # characters: some 64 tokens
MOST_BLOCKS = 1024  # of a conversation; behind that, nobody tells it from another
MOST_HASHES = 1 << 17  # that are remembered, some 150 bytes each
MOST_HOLDERS = 4  # of one hash: those that read it last
# What conversations are made of in requests of all kinds, in the order in which prompts have it.
FIRST = ("tools", "system", "instructions", "input_extra", "input_prefix")
LISTS = ("messages", "prompt", "input")
BUSY = 8.0  # blocks: a text that is being written delays another as much as reading so many
WAITING = 8.0  # times more where it has to be waited for


def prefix_of(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Hashes of the beginnings of a request's conversation, each of one block or message more. fields: its JSON."""
    running = hashlib.blake2b(digest_size=8)
    hashes = []
    for text in _blocks(fields):
        running.update(text.encode("utf-8", "replace"))
        hashes.append(int.from_bytes(running.digest(), "big"))
        if len(hashes) == MOST_BLOCKS:
            break
    return tuple(hashes)


def _blocks(fields: Mapping[str, Any]) -> Iterator[str]:
    """A message begins a block, so that two conversations agree on all messages that they have in common."""
    for name in FIRST:
        if (found := fields.get(name)) is not None:
            yield from _cut(_text(found), name)
    for name in LISTS:
        found = fields.get(name)
        messages = found if isinstance(found, list) else () if found is None else (found,)
        for message in messages[: 4 * MOST_BLOCKS]:
            yield from _cut(_text(message), name)


def _cut(text: str, name: str) -> Iterator[str]:
    text = f"\0{name}\0{text}"
    return (text[at : at + BLOCK] for at in range(0, min(len(text), BLOCK * MOST_BLOCKS), BLOCK))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


class Holders:
    """Which replicas have read what, as far as it is remembered: the latest."""

    def __init__(self, most: int = MOST_HASHES) -> None:
        self._most = most
        self._holders: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def note(self, prefix: Sequence[int], replica: str) -> None:
        """The replica reads this now. Its beginning is forgotten last."""
        for one in reversed(prefix):
            others = [name for name in self._holders.pop(one, ()) if name != replica]
            self._holders[one] = (replica, *others[: MOST_HOLDERS - 1])
        while len(self._holders) > self._most:
            self._holders.popitem(last=False)

    def known(self, prefix: Sequence[int], replicas: Iterable[str]) -> dict[str, int]:
        """By replica, how many blocks of the beginning it has read; those that know none are not among them."""
        left, found = set(replicas), dict[str, int]()
        for n_blocks in range(len(prefix), 0, -1):
            for name in left.intersection(self._holders.get(prefix[n_blocks - 1], ())):
                found[name] = n_blocks
                left.discard(name)
            if not left:
                break
        return found


@dataclass(frozen=True)
class Load:
    """A replica that may be asked. known: blocks of the conversation that it has read. busy: texts that it has been
    given and has not finished.
    """

    replica: str
    known: int
    busy: int


def best(loads: Sequence[Load], n_blocks: int, slots: int) -> str:
    """Where an answer comes soonest: what is to be read there, and who is there already, in blocks.

    loads: at least one, in the order in which they take turns where all else is equal. slots: of each replica.
    """

    def cost(one: Load) -> float:
        return n_blocks - one.known + BUSY * (one.busy + WAITING * max(0, one.busy - slots + 1))

    return min(loads, key=cost).replica
