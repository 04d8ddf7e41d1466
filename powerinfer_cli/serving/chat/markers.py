"""Finding the first of several texts in one that is still growing."""

from collections.abc import Sequence

__all__ = ["find_first", "may_become"]


def find_first(text: str, markers: Sequence[str]) -> tuple[int, str | None]:
    """(where the first marker begins, which); (the length of what can be no part of one that is to come, None)."""
    found = min(
        ((at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0),
        default=None,
    )
    if found is not None:
        return found[0], found[2]
    longest = max((len(marker) for marker in markers), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(marker.startswith(text[start:]) for marker in markers):
            return start, None
    return len(text), None


def may_become(text: str, marker: str) -> bool:
    """Whether `text` is a part of the marker's beginning, and not all of it."""
    return len(text) < len(marker) and marker.startswith(text)
