"""Check our tokenizers against llama.cpp's own test vectors.

Usage: python scripts/checks/check_tokenizers.py VOCAB_DIR

VOCAB_DIR holds llama.cpp's `models/ggml-vocab-*.gguf` with their `.inp` and `.out` files: texts between lines of
`__ggml_vocab_test__`, and for each a line of ids. Vocabularies of kinds that are not supported are listed as such.
"""

import sys
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import Tokenizer

SEPARATOR = b"\n__ggml_vocab_test__\n"


def read_vectors(vocabulary: Path) -> list[tuple[bytes, list[int]]]:
    """(text, ids) for each test of `vocabulary`."""
    texts = Path(f"{vocabulary}.inp").read_bytes().removesuffix(SEPARATOR).split(SEPARATOR)
    lines = Path(f"{vocabulary}.out").read_text(encoding="ascii").splitlines()
    return [(text, list(map(int, line.split()))) for text, line in zip(texts, lines, strict=True)]


def check(vocabulary: Path) -> bool:
    """Print one line for `vocabulary`, and one for each text whose ids differ."""
    try:
        tokenizer = Tokenizer.from_gguf(vocabulary)
    except PowerInferError as error:
        print(f"{vocabulary.name}: not supported: {error}")
        return True
    if not Path(f"{vocabulary}.inp").exists():
        print(f"{vocabulary.name}: opened; it comes without vectors")
        return True
    vectors = read_vectors(vocabulary)
    wrong = []
    for text, expected in vectors:
        ids = tokenizer.encode(text, add_special=False, parse_special=False)
        if ids != expected:
            wrong.append(f"  {text[:60]!r}: {ids[:20]}, llama.cpp has {expected[:20]}")
    print(f"{vocabulary.name}: {len(vectors) - len(wrong)} of {len(vectors)} texts agree")
    print("".join(f"{line}\n" for line in wrong), end="")
    return not wrong


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_tokenizers.py VOCAB_DIR")
    vocabularies = sorted(Path(sys.argv[1]).glob("ggml-vocab-*.gguf"))
    if not vocabularies:
        sys.exit(f"no ggml-vocab-*.gguf in {sys.argv[1]}")
    agreed = [check(vocabulary) for vocabulary in vocabularies]
    sys.exit(0 if all(agreed) else 1)
