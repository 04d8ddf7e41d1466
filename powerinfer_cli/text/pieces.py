"""Token ids back to text: each token's bytes, and the clean-up that llama.cpp applies to a whole decoded text."""

import re
from collections.abc import Iterator

from .algorithms.bpe import byte_characters
from .algorithms.spm import SPACE
from .vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary

__all__ = ["TokenPieces", "clean_spaces"]

_SPACE = SPACE.encode()
_HEX = re.compile(r"[0-9A-Fa-f]{1,2}")


class TokenPieces:
    """The bytes that each token stands for, special tokens as their text; nothing for tokens of no kind.

    They are made when they are asked for: of a large vocabulary a conversation uses little.
    """

    def __init__(self, vocabulary: Vocabulary, kinds: bytes) -> None:
        self._tokens = vocabulary.tokens
        self._kinds = kinds
        self._byte_level = vocabulary.pre is not None and vocabulary.pre.byte_level
        self._values = {character: byte for byte, character in enumerate(byte_characters())}

    def __getitem__(self, token: int) -> bytes:
        raw, kind = self._tokens.raw(token), self._kinds[token]
        if kind & (UNKNOWN | CONTROL | USER_DEFINED):
            return raw
        if kind & NORMAL and not self._byte_level:
            return raw.replace(_SPACE, b" ")
        text = self._tokens[token]
        if kind & NORMAL:
            try:
                return bytes(map(self._values.__getitem__, text))
            except KeyError:
                return b"".join(_byte_level_piece(text, self._values))
        if kind & BYTE:
            digits = _HEX.match(text, 3, 5)
            return bytes([int(digits[0], 16) if digits else 0])
        return b""


def _byte_level_piece(token: str, values: dict[str, int]) -> Iterator[bytes]:
    """llama.cpp writes a character that stands for no byte as a note that repeats the whole token."""
    for character in token:
        if character in values:
            yield bytes([values[character]])
        else:
            yield f"[UNK_BYTE_0x{character.encode('utf-8', 'surrogatepass').hex()}{token}]".encode()


def clean_spaces(text: bytes) -> bytes:
    """Without the spaces before ? ! . , and around lone apostrophes, and before 's 'm 're 've."""
    text = re.sub(rb" (?=[?!.,])", b"", text)
    text = re.sub(rb" ' ", b"'", text)
    return re.sub(rb" (?='(?:s|m|re|ve))", b"", text)
