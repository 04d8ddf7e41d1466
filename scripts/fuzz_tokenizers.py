"""Compare our tokenizers with llama.cpp's on random nasty texts.

Usage: python scripts/fuzz_tokenizers.py ORACLE_PYTHON COUNT [VOCABULARY.gguf...]

ORACLE_PYTHON is a Python that has llama-cpp-python. COUNT texts are made for each vocabulary, seeded, and encoded with
and without parsing special tokens; ids, texts decoded from random ids, pieces and special tokens must be equal.
Without vocabularies those of the test suite are taken: one for each pre-tokenizer's name, and some of SentencePiece's.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import write_gguf
from powerinfer_cli.text import Tokenizer
from scripts.recording.record_tokenizer_ids import HYPERPARAMETERS
from tests.text.vocabularies import all_vocabularies

ORACLE = Path(__file__).parent / "peers" / "llama_cpp_oracle.py"
SNIPPETS = [
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", " \n", "\n ", "\x85", "\xa0", "\u3000", "\u2028"),
    *("'s", "'S", "'t", "'re", "'VE", "'ll", "'", "' ", " '", "’s", "'x"),
    *("the", " the", "The", "THE", "Hello", " world", "don't", "I'LL", "camelCase", "XMLHttp", "straße", "ſ", "ǅ"),
    *("0", "1", "12", "123", "1234", "12345", "123456", "1234567", "٣", "½", "²", "Ⅷ", "१२३", "𝟘"),
    *(".", ",", "!", "?", "...", "(", ")", "[", "]", "{", "}", "/", "//", "\\", "#", "$", "+", "=", "<", ">", "^", "~"),
    *("|", "`", "_", "-", "--", "@", "%", "&", "*", '"', ";", ":", "«", "»", "…", "。", "，", "¿", "€", "©", "∑"),
    *("㐀", "\u9ffe", "\ufa6e", "𠀀", "〇", "一二三", "2024年", "！你", " 你"),
    *("你好", "世界", "中", "文字", "ひらがな", "カタカナ", "한국어", "ㅎ", "ㄅ", "ก็", "ไทย", "مرحبا", "שלום", "हिन्दी"),
    *("é", "e\u0301", "ü", "ñ", "Å", "\u0301", "\u0327", "\u20dd", "русский", "Ελλάδα", "ქართული", "ᏣᎳᎩ", "𐐀", "𞤀"),
    *(
        "😀",
        "👨\u200d👩\u200d👧",
        "🏳️\u200d🌈",
        "👍🏽",
        "\u200d",
        "\ufe0f",
        "🇩🇪",
        "\u200b",
        "\ufeff",
        "\ufffd",
        "\u00ad",
    ),
    *("▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>"),
    *(
        "<|eot_id|>",
        "<|begin_of_text|>",
        "[INST]",
        "<|",
        "|>",
        "<",
        "s>",
        "<sentinel:1>",
        "IMGIMGABZ",
        "\0",
        "\x7f",
        "\x01",
    ),
]
BYTES = [
    *(b"\x80", b"\xbf", b"\xc0\x80", b"\xc3", b"\xe2\x96", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f", b"\xf0\x9f\x98"),
    *(b"\xf8", b"\xff", b"\xfe", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\x80", b"\xc3\x28", b"\xf4\x8f\xbf\xbf"),
]


def random_text(rng: random.Random, tokens: list[bytes]) -> bytes:
    """A text of snippets, characters from everywhere, the vocabulary's own tokens, and sometimes bad bytes."""
    parts: list[bytes] = []
    dirty = rng.random() < 0.3
    for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 30])):
        kind = rng.random()
        if kind < 0.6:
            parts.append(rng.choice(SNIPPETS).encode())
        elif kind < 0.75:
            parts.append(rng.choice(tokens))
        elif kind < 0.9:
            point = rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x110000)])
            parts.append(chr(point).encode() if not 0xD800 <= point < 0xE000 else b"?")
        elif dirty:
            parts.append(rng.choice(BYTES) if rng.random() < 0.8 else bytes([rng.randrange(0x80, 0xF4)]))
        else:
            parts.append(rng.choice(SNIPPETS).encode() * rng.randrange(2, 9))
    # Beyond U+10FFFF llama.cpp refuses the whole text.
    return (
        b"".join(parts).replace(b"\xf4\x90", b"?").replace(b"\xf5", b"?").replace(b"\xf6", b"?").replace(b"\xf7", b"?")
    )


def ask(python: str, vocabulary: str, request: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's answer, see llama_cpp_oracle.py."""
    done = subprocess.run(
        [python, str(ORACLE), vocabulary], input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def fuzz(python: str, vocabulary: str, count: int) -> int:
    """The number of differences."""
    try:
        tokenizer = Tokenizer.from_gguf(vocabulary)
    except PowerInferError as error:
        print(f"{vocabulary}: not supported: {str(error)[:160]}")
        return 0
    rng = random.Random(Path(vocabulary).name)
    pieces = [tokenizer.piece(i, special=True) for i in range(tokenizer.vocab_size)]
    texts = [random_text(rng, pieces) for _ in range(count)]
    random_ids = [[rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(1, 12))] for _ in range(count)]
    differences = 0
    for parse_special in (False, True):
        request = {
            "texts": [text.hex() for text in texts],
            "add_special": parse_special,
            "parse_special": parse_special,
            "decode": random_ids,
        }
        answer = ask(python, vocabulary, request)
        for text, expected in zip(texts, answer["ids"], strict=True):
            ids = tokenizer.encode(text, add_special=parse_special, parse_special=parse_special)
            if ids != expected:
                differences += 1
                if differences < 6:
                    print(f"  {text!r} (special: {parse_special})\n    ours      {ids}\n    llama.cpp {expected}")
    for ids, text in zip(random_ids, answer["texts"], strict=True):
        if tokenizer.decode_bytes(ids).hex() != text:
            differences += 1
            if differences < 12:
                print(f"  {ids}: ours {tokenizer.decode_bytes(ids)!r}, llama.cpp {bytes.fromhex(text)!r}")
    ours = {
        "pieces": [piece.hex() for piece in pieces],
        "eog": sorted(tokenizer.eog_ids),
        "bos": -1 if tokenizer.bos_id is None else tokenizer.bos_id,
        "eos": -1 if tokenizer.eos_id is None else tokenizer.eos_id,
        "add_bos": tokenizer.add_bos,
        "add_eos": tokenizer.add_eos,
    }
    for what, value in ours.items():
        if value != answer[what]:
            differences += 1
            print(f"  {what}: ours {str(value)[:200]}, llama.cpp {str(answer[what])[:200]}")
    print(f"{vocabulary}: {differences} differences in {2 * count} texts and {count} decoded")
    return differences


def fuzz_all(python: str, count: int) -> int:
    """The number of differences with the test suite's vocabularies."""
    differences = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata in all_vocabularies().items():
            path = Path(folder) / f"{name.replace('/', '-')}.gguf"
            write_gguf(path, arch="llama", metadata=HYPERPARAMETERS | metadata, tensors=[], sparse=False)
            differences += fuzz(python, str(path), count)
    return differences


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: fuzz_tokenizers.py ORACLE_PYTHON COUNT [VOCABULARY.gguf...]")
    python, count, *vocabularies = sys.argv[1:]
    found = [fuzz(python, path, int(count)) for path in vocabularies] or [fuzz_all(python, int(count))]
    sys.exit(1 if sum(found) else 0)
