"""A bounded, forward-only reader over the bytes of one file."""

import mmap
import struct
from pathlib import Path

import numpy as np

from .failure import GGUFError, shown_path
from .strings import Strings, regular_strings

__all__ = ["Buffer", "Cursor"]

Buffer = mmap.mmap | bytes

LARGEST_HEADER = 1 << 27
"""Bytes of metadata and tensor list together. The largest vocabularies take some 20 MB; a file with holes may claim
terabytes of them and take no room on the disk."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads little-endian numbers and strings; whatever lies outside the file is a GGUFError."""

    def __init__(self, buffer: Buffer, path: Path) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.end = min(self.size, LARGEST_HEADER)
        self.path = path
        self.pos = 0
        self.inner_arrays = 0
        """Arrays within arrays so far: small on disk, large in memory, so their number is limited."""

    def error(self, message: str, at: int | None = None) -> GGUFError:
        """The error to raise: the file's name, `message`, and the byte that it is about."""
        return GGUFError(f"{shown_path(self.path)}: {message} (at byte {self.pos if at is None else at})")

    def need(self, n_bytes: int, what: str) -> int:
        """The position of the next `n_bytes`, which are then passed; they must lie inside the file."""
        start = self.pos
        if n_bytes > self.end - start:
            raise self.error(f"{what} needs {n_bytes} bytes, but {self._left()}")
        self.pos = start + n_bytes
        return start

    def need_items(self, count: int, item_bytes: int, what: str, most: int | None = None) -> None:
        """Refuse a claimed `count` that is beyond reason or what is left of the file, before anything is allocated."""
        if most is not None and count > most:
            raise self.error(f"the file claims {count} {what}, but at most {most} are allowed")
        if count > (self.end - self.pos) // item_bytes:
            raise self.error(f"the file claims {count} {what}, but {self._left()}")

    def _left(self) -> str:
        left = self.end - self.pos
        if self.end == self.size:
            return f"the file ends {left} bytes further on: cut short?"
        return f"of the {self.end} that metadata and tensor list may have {left} are left"

    def take(self, n_bytes: int, what: str) -> bytes:
        start = self.need(n_bytes, what)
        return self.buffer[start : start + n_bytes]

    def u32(self, what: str) -> int:
        value: int = _U32.unpack_from(self.buffer, self.need(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack_from(self.buffer, self.need(8, what))[0]
        return value

    def string(self, what: str, longest: int | None = None) -> str:
        """A length (u64), then that many bytes of UTF-8."""
        start = self.pos
        length = self.u64(f"the length of {what}")
        if longest is not None and length > longest:
            raise self.error(f"{what} is {length} bytes long, but at most {longest} are allowed", start)
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", start + 8 + error.start) from None

    def strings(self, count: int, what: str) -> Strings:
        """`count` strings."""
        self.need_items(count, 8, f"strings in {what}")
        # Vocabularies and merges have some 20 bytes a string: a second look is rare.
        for n_bytes in (24 * count, 96 * count) if count else ():
            window = np.frombuffer(self.buffer, np.uint8, min(n_bytes, self.end - self.pos), self.pos)
            strings = regular_strings(window, count)
            if strings is not None:
                self.pos += int(strings.ends[-1])
                return strings
        return self._any_strings(count, what)

    def _any_strings(self, count: int, what: str) -> Strings:
        """As `strings`, for any that may be, one by one; tells which is wrong, and how."""
        buffer, limit, pos = self.buffer, self.end, self.pos
        length_at = _U64.unpack_from
        result: list[str] = []
        append = result.append
        try:
            for _ in range(count):
                (length,) = length_at(buffer, pos)
                start = pos + 8
                end = start + length
                if end > limit:
                    self.pos = start
                    raise self.error(f"string {len(result)} of {what} is {length} bytes long, but {self._left()}", pos)
                append(buffer[start:end].decode())
                pos = end
        except UnicodeDecodeError as error:
            raise self.error(f"string {len(result)} of {what} is not UTF-8", pos + 8 + error.start) from None
        except struct.error:
            raise self.error(f"the file ends before string {len(result)} of {what}: cut short?", pos) from None
        self.pos = pos
        return Strings.of(result)
