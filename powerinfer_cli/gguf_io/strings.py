"""Arrays of strings, of which a vocabulary has hundreds of thousands, without an object for each."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

__all__ = ["Strings", "regular_strings"]

HEADER = 8  # bytes before a string: its length
PADDING = bytes(HEADER)
_CHECKED_AT_ONCE = 1 << 13

Places = npt.NDArray[np.int32]


class Strings(Sequence[str]):
    """A sequence of str, made when one is asked for, of UTF-8 that lies in one piece.

    data: the strings' bytes, at least HEADER bytes before, between and behind them. starts, ends: int32 [n], of each
    string in `data`.
    """

    def __init__(self, data: bytes, starts: Places, ends: Places) -> None:
        self.data, self.starts, self.ends = data, starts, ends
        self._starts, self._ends = starts.data, ends.data  # faster for single numbers

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """The same strings."""
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([HEADER + len(piece) for piece in pieces], dtype=np.int32)
        starts = ends - np.array([len(piece) for piece in pieces], dtype=np.int32)
        return cls(PADDING + PADDING.join(pieces) + PADDING, starts, ends)

    def raw(self, i: int) -> bytes:
        """The bytes of string `i`, 0 or more."""
        return self.data[self._starts[i] : self._ends[i]]

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> "Strings": ...
    def __getitem__(self, i: int | slice) -> "str | Strings":
        if isinstance(i, slice):
            return Strings(self.data, self.starts[i], self.ends[i])
        return self.raw(i).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as Python has it for what compares by content

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Strings([{shown}, ...], {len(self)} in all)" if len(self) > 3 else f"Strings([{shown}])"


def regular_strings(window: npt.NDArray[np.uint8], count: int) -> Strings | None:
    """The `count` (1 or more) strings that `window` begins with, each with its length before it, without a step for
    each.

    None where they are not all there, or not so that their lengths can be told from their texts: where one is empty,
    holds a NUL or is no UTF-8, or is longer than 65535 bytes.
    """
    data = np.zeros(len(window) + HEADER, np.uint8)
    data[: len(window)] = window
    headers = _headers(data)[:count]
    if len(headers) < count:
        return None
    lengths = data[headers] + (data[headers + 1].astype(np.int32) << 8)
    starts = headers + np.int32(HEADER)
    ends = starts + lengths
    if headers[0] != 0 or ends[-1] > len(window) or not np.array_equal(headers[1:], ends[:-1]):
        return None
    data[headers] = data[headers + 1] = 0
    text = data[: int(ends[-1]) + HEADER]
    text[ends[-1] :] = 0
    strings = Strings(text.tobytes(), starts, ends)
    return strings if _all_decode(strings) else None


def _headers(data: npt.NDArray[np.uint8]) -> Places:
    """Where a length may be that is less than 65536 and followed by a text: its last 6 bytes are NULs."""
    nul = data == 0
    last = nul[5:-1] & ~nul[6:]
    for i in range(5):
        last &= nul[i : len(last) + i]
    return np.flatnonzero(last).astype(np.int32) - np.int32(2)


def _all_decode(strings: Strings) -> bool:
    """As NULs are around each string, they all are UTF-8 where they are together."""
    try:
        for i in range(0, len(strings), _CHECKED_AT_ONCE):
            last = min(i + _CHECKED_AT_ONCE, len(strings)) - 1
            strings.data[strings.starts[i] : strings.ends[last]].decode()
    except UnicodeDecodeError:
        return False
    return True
