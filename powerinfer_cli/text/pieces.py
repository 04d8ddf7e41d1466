"""Token ids back to text: each token's bytes, and the clean-up that llama.cpp applies to a whole decoded text."""

import re
from collections.abc import Iterator

from .bpe import byte_characters
from .spm import SPACE
from .vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary

__all__ = ["clean_spaces", "token_pieces"]

_HEX = re.compile(r"[0-9A-Fa-f]{1,2}")


def token_pieces(vocabulary: Vocabulary, kinds: tuple[int, ...]) -> Iterator[bytes]:
    """The bytes that each token stands for, special tokens as their text; nothing for tokens of no kind."""
    byte_level = vocabulary.pre is not None and vocabulary.pre.byte_level
    values = {character: byte for byte, character in enumerate(byte_characters())}
    for token, kind in zip(vocabulary.tokens, kinds, strict=True):
        if kind & (UNKNOWN | CONTROL | USER_DEFINED):
            yield token.encode("utf-8", "surrogatepass")
        elif kind & NORMAL and not byte_level:
            yield token.replace(SPACE, " ").encode("utf-8", "surrogatepass")
        elif kind & NORMAL:
            try:
                yield bytes(map(values.__getitem__, token))
            except KeyError:
                yield b"".join(_byte_level_piece(token, values))
        elif kind & BYTE:
            digits = _HEX.match(token, 3, 5)
            yield bytes([int(digits[0], 16) if digits else 0])
        else:
            yield b""


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
