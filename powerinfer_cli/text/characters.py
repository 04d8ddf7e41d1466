"""Bytes to characters, and characters to the classes that llama.cpp's tokenizers see.

Texts may hold bytes that are not UTF-8. llama.cpp reads them in two ways, and so do we: its BPE replaces what cannot
be decoded, its SentencePiece keeps the bytes. Both take more for UTF-8 than the standard does (overlong forms,
surrogates), so the slow paths here decode by hand; text that is valid UTF-8 never reaches them.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["CLASS_CHARACTER", "bytes_of", "collapse", "lenient_text", "plain_spaces", "spm_text", "to_bytes"]

REPLACEMENT = "\ufffd"
CLASS_CHARACTER = {
    **{"W": "\x0b", "N": "\xd1", "L": "\xd2", "P": "\xd3", "M": "\xd4", "S": "\xd5", "O": "\xd0"},
    **{"H": "\xd6", "h": "\xd7"},
}
"""What a character beyond ASCII becomes in a collapsed text, by its class. White space becomes ASCII's rarest one.

H: letters that are Chinese characters; h: code points among those that are none yet."""

_HAN = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF)),
    *((0x2A700, 0x2EBEF), (0x2F800, 0x2FA1F)),
)
"""First and last code points of the blocks that llama.cpp takes for Chinese characters."""

_LENIENT_SEQUENCE = re.compile(
    rb"[\x00-\x7f]+|[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3}|[\x80-\xff]"
)
_SPM_SYMBOL = re.compile(rb"[\x00-\x7f]+|[\xc0-\xdf].?|[\xe0-\xef].{0,2}|[\xf0-\xff].{0,3}|.", re.DOTALL)
_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_ESCAPED_BYTE = re.compile(rb"\xed[\xb2\xb3][\x80-\xbf]")  # U+DC80 to U+DCFF
_ESCAPE_BASE = 0xDC00


def to_bytes(text: str | bytes) -> bytes:
    """UTF-8. Bytes that Python could not decode (command lines hold them as U+DC80 to U+DCFF) are those bytes again.

    Any other lone surrogate becomes its three bytes, which no vocabulary holds as a character.
    """
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "surrogatepass")
        return _ESCAPED_BYTE.sub(
            lambda found: found[0].decode("utf-8", "surrogatepass").encode("utf-8", "surrogateescape"), encoded
        )


def lenient_text(data: bytes) -> str:
    """As llama.cpp's BPE reads bytes: overlong forms and surrogates are decoded, other bad bytes become U+FFFD each.

    Four-byte forms beyond U+10FFFF, for which llama.cpp gives up on the whole text, become one U+FFFD.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(map(_lenient_character, _LENIENT_SEQUENCE.findall(data)))


def _lenient_character(sequence: bytes) -> str:
    first = sequence[0]
    if first < 0x80:
        return sequence.decode("ascii")
    if len(sequence) == 1:
        return REPLACEMENT
    point = first & (0xFF >> (len(sequence) + 1))
    for byte in sequence[1:]:
        point = point << 6 | byte & 0x3F
    return chr(point) if point <= 0x10FFFF else REPLACEMENT


def spm_text(data: bytes) -> str:
    """As llama.cpp's SentencePiece reads bytes: a symbol is as long as its first byte says, whatever follows.

    A symbol that is not valid UTF-8 comes back as one lone surrogate per byte, U+DC00 + byte: no vocabulary entry
    holds one, so it can neither merge nor be found, and `bytes_of` gives the byte back.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(map(_spm_symbol, _SPM_SYMBOL.findall(data)))


def _spm_symbol(symbol: bytes) -> str:
    try:
        return symbol.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(_ESCAPE_BASE + byte) for byte in symbol)


def bytes_of(character: str) -> bytes:
    """The bytes behind one character of an `spm_text`."""
    point = ord(character)
    if _ESCAPE_BASE <= point <= _ESCAPE_BASE + 0xFF:
        return bytes([point - _ESCAPE_BASE])
    return character.encode("utf-8")


def plain_spaces(text: str) -> str:
    """White space beyond ASCII as a vertical tab, so that an ASCII-only `\\s` sees it. Keeps the length."""
    return _WIDE_SPACE.sub("\x0b", text)


def collapse(text: str) -> str:
    """ASCII stays; any other character becomes its class's (see CLASS_CHARACTER). Keeps the length."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return str(_collapsed_points()[points].tobytes(), "latin-1")


@cache
def _collapsed_points() -> npt.NDArray[np.uint8]:
    """uint8 [0x110000]: the Latin-1 character that stands for each code point."""
    lines = Path(__file__).with_name("unicode_classes.txt").read_text(encoding="utf-8").splitlines()
    starts = np.array([int(line.split()[0], 16) for line in lines] + [0x110000])
    classes = np.array([ord(CLASS_CHARACTER[line.split()[1]]) for line in lines], dtype=np.uint8)
    points = np.repeat(classes, np.diff(starts))
    points[:128] = np.arange(128)
    letter, han, no_han = (ord(CLASS_CHARACTER[kind]) for kind in "LHh")
    for first, last in _HAN:
        block = points[first : last + 1]
        block[:] = np.where(block == letter, han, no_han)
    return points
