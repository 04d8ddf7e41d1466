"""What was used last, as far as it fits."""

from collections import OrderedDict
from hashlib import blake2b
from typing import Generic, TypeVar

__all__ = ["RecentCache"]

Value = TypeVar("Value")


class RecentCache(Generic[Value]):
    """Values by their keys, which are texts; the sum of their sizes stays within `most`. For one thread at a time.

    Of keys, which may be long, only a digest is kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._values: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()

    def get(self, *key: str) -> Value | None:
        digest = _digest(key)
        found = self._values.get(digest)
        if found is None:
            return None
        self._values.move_to_end(digest)
        return found[0]

    def put(self, *key: str, value: Value, size: int) -> None:
        """In place of what was used longest ago; one that does not fit alone is not kept."""
        digest = _digest(key)
        if digest in self._values or size > self._most:
            return
        self._values[digest] = value, size
        self._held += size
        self.shrink(self._most)

    def shrink(self, most: int) -> None:
        """Drop what was used longest ago, until the sum is within `most`."""
        while self._held > most:
            _, (_, gone) = self._values.popitem(last=False)
            self._held -= gone


def _digest(key: tuple[str, ...]) -> bytes:
    return blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()
