"""What was used last, as far as it fits."""

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Recent"]

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by their keys, which are texts; the sum of their sizes stays within `most`. For one thread at a time."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._values: OrderedDict[tuple[str, ...], tuple[Value, int]] = OrderedDict()

    def get(self, *key: str) -> Value | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, *key: str, value: Value, size: int) -> None:
        """In place of what was used longest ago; one that does not fit alone is not kept."""
        if key in self._values or size > self._most:
            return
        self._values[key] = value, size
        self._held += size
        while self._held > self._most:
            _, (_, gone) = self._values.popitem(last=False)
            self._held -= gone
