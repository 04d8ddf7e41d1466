"""WordPiece and unigrams against `tokenizers`, on small vocabularies; maps of characters against its own reading."""

import math
import random
import struct
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Peer

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import Tokenizer
from powerinfer_cli.text.algorithms.ranked_pair import pair_ids
from tests.text.nasty_texts import NASTY_TEXTS
from tests.text.vocabularies import CONTROL, NORMAL, SPACE, TRAINING_TEXT, UNKNOWN

BLOCKS = (
    *((0x20, 0x7F), (0xA0, 0x250), (0x300, 0x340), (0x391, 0x450), (0x904, 0x940), (0x4E00, 0x4E20)),
    (0xAC00, 0xAC20),
)
KEYS = {"①": "1", "ﬁ": "fi", "e\u0301": "é", "\u3000": " ", "\t": " ", "Ａ": "A", "ＡＢ": "ab", "\u200b": ""}


def texts() -> list[str]:
    drawn = random.Random(3)

    def some() -> str:
        blocks = drawn.choices(BLOCKS, k=3)
        return "".join(chr(drawn.randrange(*drawn.choice(blocks))) if drawn.random() < 0.8 else " " for _ in range(20))

    known = [text for text in NASTY_TEXTS if isinstance(text, str) and SPACE not in text and "<" not in text]
    return [*known, *TRAINING_TEXT.splitlines(), *(some() for _ in range(200)), "x" * 101, ""]


@cache
def pieces() -> tuple[str, ...]:
    """Beginnings and ends of words, as WordPiece has them: lower case, without accents."""
    normal = normalizers.BertNormalizer()
    words = normal.normalize_str(TRAINING_TEXT.replace("|", " ")).split()
    cuts = [(word[:n], word[n:]) for word in words for n in range(1, len(word) + 1)]
    begin, end = Counter(a for a, _ in cuts), Counter(b for _, b in cuts if b)
    most = [word for word, n in begin.items() if n > 1 or len(word) == 1], [word for word, n in end.items() if n > 1]
    letters = sorted({letter for word in words for letter in word})
    punctuation = [c for c in map(chr, range(33, 127)) if not c.isalnum()]
    return tuple(dict.fromkeys([*most[0], *letters, *punctuation, *(f"##{word}" for word in [*most[1], *letters])]))


def wordpiece(**more: Any) -> tuple[Tokenizer, Peer]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces()]
    stored = [piece[2:] if piece.startswith("##") else SPACE + piece for piece in pieces()]
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [*tokens[:4], *stored],
        "tokenizer.ggml.token_type": np.array([CONTROL, UNKNOWN, CONTROL, CONTROL] + [NORMAL] * len(stored), np.int32),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        **{f"tokenizer.ggml.normalizer.{name}": value for name, value in more.items()},
    }
    peer = Peer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    peer.normalizer = normalizers.BertNormalizer(**more)
    peer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokenizer(metadata), peer


@pytest.mark.parametrize(
    "more", [{}, {"lowercase": False}, {"strip_accents": False}, {"lowercase": False, "strip_accents": True}]
)
def test_wordpiece(more: dict[str, bool]) -> None:
    ours, peer = wordpiece(**more)
    for text in texts():
        assert ours.encode(text, add_special=False, parse_special=False) == peer.encode(text).ids, repr(text)


def test_wordpiece_closes_texts() -> None:
    ours, _ = wordpiece()
    inside = ours.encode("the bear", add_special=False)
    assert ours.encode("the bear") == [2, *inside, 3]
    assert pair_ids(ours, "the bear", "the bear") == [2, *inside, 3, *inside, 3]
    assert ours.encode("[SEP]", add_special=False) == [3]


def charsmap(keys: dict[str, str]) -> bytes:
    """A double array in which each node has 256 units of its own, the root the first ones."""
    nodes: dict[bytes, int] = {b"": 0}
    for key in map(str.encode, keys):
        for n in range(1, len(key) + 1):
            nodes.setdefault(key[:n], len(nodes))
    units = [0x7FFFFF7F] * (256 * len(nodes) + 256)  # of no byte's child
    replacements = b""
    for path, number in nodes.items():
        if path:
            at = 256 * nodes[path[:-1]] + path[-1]
            units[at] = path[-1] | (at ^ 256 * number) << 10
        else:
            units[0] = 0
        if path.decode("utf-8", "replace") in keys:
            units[256 * nodes[path[:-1]] + path[-1]] |= 1 << 8
            units[256 * number] = 1 << 31 | len(replacements)
            replacements += keys[path.decode()].encode() + b"\0"
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + replacements


@cache
def unigrams() -> tuple[tuple[str, float], ...]:
    """Pieces of words by their share of all."""
    words = [SPACE + word for word in TRAINING_TEXT.split()]
    parts = (word[a:b] for word in words for a in range(len(word)) for b in range(a + 1, a + 8) if b <= len(word))
    counts = Counter(parts)
    kept = {piece: n for piece, n in counts.items() if n > 1 and SPACE not in piece[1:]}
    return tuple((piece, math.log(n / sum(kept.values()))) for piece, n in sorted(kept.items()))


def unigram(**more: Any) -> Tokenizer:
    scored = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *unigrams()]
    return Tokenizer(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": [token for token, _ in scored],
            "tokenizer.ggml.scores": np.array([score for _, score in scored], np.float32),
            "tokenizer.ggml.token_type": np.array([CONTROL, CONTROL, UNKNOWN] + [NORMAL] * len(unigrams()), np.int32),
            "tokenizer.ggml.remove_extra_whitespaces": True,
            "tokenizer.ggml.precompiled_charsmap": np.frombuffer(charsmap(KEYS), np.uint8),
        }
        | {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    )


def test_unigrams() -> None:
    """tokenizers passes over what its map of characters makes of long clusters, so each text is mapped before."""
    scores = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, float(np.float32(s))) for piece, s in unigrams())]
    peer = Peer(models.Unigram(scores, unk_id=2))
    peer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    peer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Metaspace()])
    ours = unigram()
    for text in texts():
        assert ours.encode(text, add_special=False) == peer.encode(mapped(text)).ids, repr(text)


def mapped(text: str) -> str:
    """The longest keys replaced, from the left."""
    found, at = "", 0
    while at < len(text):
        key = max((key for key in KEYS if text.startswith(key, at)), key=len, default="")
        found += KEYS[key] if key else text[at]
        at += len(key) or 1
    return found


def test_map_of_characters_is_read_as_by_tokenizers() -> None:
    peer = normalizers.Precompiled(charsmap(KEYS))
    ours = unigram()._encoder._form.charsmap  # type: ignore[union-attr]
    for text in ("①ﬁx", "e\u0301e", "a\u3000b\tc", "ＡＢＡ", "plain", "\u200b"):
        assert ours.apply(text) == mapped(text)
    for text in ("①ﬁx", "e\u0301e", "a\u3000b", "plain"):  # of single clusters' keys alone
        assert ours.apply(text) == peer.normalize_str(text)


def test_spaces_of_unigrams() -> None:
    one, all_of_them = unigram(), unigram(remove_extra_whitespaces=False)
    word = one.encode("bear", add_special=False)
    assert one.encode("  bear   bear ") == [*word, *word, 1]
    assert one.decode(one.encode("the bear was")) == "the bear was"
    assert all_of_them.encode("bear", add_special=False) == word
    assert len(all_of_them.encode("bear  bear", add_special=False)) > len(word) * 2


@pytest.mark.parametrize("broken", [b"\1", struct.pack("<I", 400) + b"12345678", charsmap({"ﬁ": "fi"})[:-1]])
def test_maps_that_are_none(broken: bytes) -> None:
    with pytest.raises(PowerInferError, match="precompiled_charsmap"):
        unigram(precompiled_charsmap=np.frombuffer(broken, np.uint8)).encode("ﬁ")


def test_pairs_by_a_template() -> None:
    """Of a reranker that writes: its own words around both texts."""
    ours = unigram(add_bos_token=False)
    ours.rerank_template = "the {query} was {document}"
    assert pair_ids(ours, "bear", "bear") == ours.encode("the bear was bear", add_special=False)


def test_neighbours_that_are_unknown_are_one() -> None:
    ours = unigram()
    ids = ours.encode("bear ✗✗✗ bear", add_special=False)
    assert [a for a, b in pairwise(ids) if a == b == 2] == []
    assert ids.count(2) == 1
