"""SentencePiece's map of characters, as a GGUF has it: which bytes are replaced by which, longest first.

Four bytes say how long a trie is, a double array of 32 bit units (Darts): from a node's offset, by exclusive or with
the next byte, to its child, whose lowest byte is that one; a node that ends a key has a child 0 whose value is a place
among the replacements behind the trie, texts that end with a zero.
"""

import numpy as np

from powerinfer_cli.errors import PowerInferError

from ..metadata import Metadata, whole_array

__all__ = ["Charsmap", "read_charsmap"]

KEY = "tokenizer.ggml.precompiled_charsmap"
MOST_BYTES = 1 << 24


class Charsmap:
    """`apply` brings a text into form. Without units it changes nothing."""

    def __init__(self, units: list[int], texts: bytes) -> None:
        self._units, self._texts = units, texts
        self._plain = frozenset(c for c in range(128) if not units or self._is_plain(c))

    def apply(self, text: str) -> str:
        """The text with the longest keys replaced, from its beginning on."""
        if not self._units or (text.isascii() and self._plain.issuperset(text.encode())):
            return text
        return self._replaced(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")

    def _is_plain(self, c: int) -> bool:
        """Whether an ASCII character stays as it is among others that do."""
        node = self._child(self._offset(0), c)
        if node is None:
            return True
        if self._ends(node):
            return False
        return all(self._child(node ^ self._offset(node), other) is None for other in range(1, 128))

    def _replaced(self, data: bytes) -> bytes:
        found, at = bytearray(), 0
        while at < len(data):
            length, value = self._longest(data, at)
            if length:
                found += self._text(value)
            else:
                length = _character_length(data[at])
                found += data[at : at + length]
            at += length
        return bytes(found)

    def _longest(self, data: bytes, at: int) -> tuple[int, int]:
        """(bytes, value) of the longest key that data has at this place; (0, 0): none."""
        best, node, place = (0, 0), self._offset(0), at
        while place < len(data) and data[place]:
            child = self._child(node, data[place])
            if child is None:
                break
            place += 1
            node = child ^ self._offset(child)
            if self._ends(child):
                best = place - at, self._unit(node) & 0x7FFFFFFF
        return best

    def _child(self, base: int, byte: int) -> int | None:
        at = base ^ byte
        return at if at < len(self._units) and self._units[at] & 0x800000FF == byte else None

    def _ends(self, node: int) -> bool:
        return bool(self._unit(node) >> 8 & 1)

    def _offset(self, node: int) -> int:
        unit = self._unit(node)
        return (unit >> 10) << ((unit & 0x200) >> 6)

    def _unit(self, at: int) -> int:
        if at >= len(self._units):
            raise PowerInferError(f"the metadata array {KEY} points behind its end")
        return self._units[at]

    def _text(self, value: int) -> bytes:
        end = self._texts.find(b"\0", value)
        if end < 0:
            raise PowerInferError(f"the metadata array {KEY} points behind its end")
        return self._texts[value:end]


def _character_length(first: int) -> int:
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def read_charsmap(metadata: Metadata) -> Charsmap:
    """Raises PowerInferError: a map that is cut off, or of the wrong type."""
    numbers = whole_array(metadata, KEY)
    if numbers is None or not numbers.size:
        return Charsmap([], b"")
    if numbers.dtype.kind not in "iu" or numbers.size > MOST_BYTES:
        raise PowerInferError(f"the metadata array {KEY} should hold bytes, {MOST_BYTES} at most")
    data = numbers.astype(np.uint8).tobytes()
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 4 <= size <= len(data) - 4:
        raise PowerInferError(f"the metadata array {KEY} is cut off")
    return Charsmap(np.frombuffer(data, "<u4", size // 4, 4).tolist(), data[4 + size :])
