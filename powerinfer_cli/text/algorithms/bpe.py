"""Byte-level BPE (`tokenizer.ggml.model` = gpt2): pre-tokenizer's words, each merged by ranked pairs."""

from functools import cache
from itertools import chain

from powerinfer_cli.gguf_io import Strings

from ..characters import lenient_text
from ..pretokenizers import PreTokenizer
from ..text_index import TextIndex
from .merging import NEVER, NumberCache, WordCache, merge_symbols
from .spm import SPACE, bridges_of, word_cutter

__all__ = ["BpeEncoder", "byte_characters"]


@cache
def byte_characters() -> tuple[str, ...]:
    """The visible character that stands for each byte in a byte-level vocabulary (GPT-2's table), [256]."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return tuple(chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256))


class BpeEncoder:
    """Encodes fragments of text that hold no special token."""

    def __init__(self, ids: TextIndex, merges: Strings, pre: PreTokenizer) -> None:
        """`merges`: `left right`, best first. A pair that is there twice counts with its first place."""
        self._ids = ids
        find = TextIndex(merges).find
        known, ranks = NumberCache(lambda token: ids.find(token, -1)), NumberCache(lambda pair: find(pair, NEVER))
        self._id_of, self._rank_of = known.__getitem__, ranks.__getitem__
        self._pre = pre
        self._byte_table = str.maketrans(dict(enumerate(byte_characters())))
        self._cache = WordCache(self.encode_word)
        self._caches = self._cache, known, ranks
        if pre.spaces_escaped:
            self._cut = word_cutter(bridges_of(merges), newlines_merge=True)

    def encode(self, fragment: bytes) -> list[int]:
        """Ids of `fragment`."""
        if not self._pre.spaces_escaped:
            words = self._pre.split(lenient_text(fragment))
        else:
            lines = self._pre.split(lenient_text(fragment.replace(b" ", SPACE.encode())))
            words = list(chain.from_iterable(map(self._cut, lines)))
        return self._cache.ids_of(words)

    def forget_words(self) -> None:
        """Drop the caches."""
        for kept in self._caches:
            kept.clear()

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Ids of one word. What has no token even as single bytes is left out."""
        pre = self._pre
        if pre.byte_level:
            word = word.encode("utf-8", "surrogatepass").decode("latin-1").translate(self._byte_table)
        if pre.ignore_merges or (pre.whole_newlines and not word.strip("\n")):
            whole = self._ids.get(word)
            if whole is not None:
                return (whole,)
        ids: list[int] = []
        for symbol in merge_symbols(word, self._rank_of, separator=" "):
            found = self._id_of(symbol)
            if found < 0:
                ids.extend(self._byte_ids(symbol))
            else:
                ids.append(found)
        return tuple(ids)

    def _byte_ids(self, symbol: str) -> list[int]:
        """llama.cpp looks up the single bytes of the symbol's UTF-8; only ASCII ones can be entries."""
        if self._pre.byte_level:
            names = [character for character in symbol if character.isascii()]
        else:
            names = [f"<0x{byte:02X}>" for byte in symbol.encode("utf-8", "surrogatepass")]
        return [self._ids[name] for name in names if name in self._ids]
