"""Record what llama.cpp says about the test suite's vocabularies and texts.

Usage: python scripts/recording/record_tokenizer_ids.py ORACLE_PYTHON

ORACLE_PYTHON is a Python that has llama-cpp-python. Run it from the repository's root when vocabularies or texts in
tests/text change; writes tests/text/data/llama_cpp_ids.json.gz.
"""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from powerinfer_cli.gguf_io import write_gguf
from tests.text.nasty_texts import NASTY_TEXTS
from tests.text.vocabularies import all_vocabularies, ending_vocabularies

DATA = Path(__file__).parents[2] / "tests" / "text" / "data"
ORACLE = Path(__file__).parents[1] / "peers" / "llama_cpp_oracle.py"
HYPERPARAMETERS = {
    "llama.context_length": 64,
    "llama.embedding_length": 64,
    "llama.block_count": 1,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 64,
}


def ask(python: str, path: Path, special: bool) -> dict[str, Any]:
    """llama.cpp's ids of all texts, with or without special tokens, and each of them decoded again."""
    texts = [text.hex() for text in NASTY_TEXTS]
    request = {"texts": texts, "add_special": special, "parse_special": special, "decode": []}
    answer = _run(python, path, request)
    request["decode"] = answer["ids"]
    return _run(python, path, request)


def _run(python: str, path: Path, request: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [python, str(ORACLE), str(path)], input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def ask_for_endings(python: str) -> dict[str, Any]:
    """Of each family's special tokens those that end a text."""
    request = {"texts": [], "add_special": False, "parse_special": False, "decode": []}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata in ending_vocabularies().items():
            path = Path(folder) / "vocabulary.gguf"
            write_gguf(path, arch="llama", metadata=HYPERPARAMETERS | metadata, tensors=[], sparse=False)
            tokens = metadata["tokenizer.ggml.tokens"]
            found[name] = [tokens[i] for i in _run(python, path, request)["eog"]]
    return found


def main(python: str) -> None:
    """Ask about every vocabulary. Equal lists of ids are stored once."""
    distinct: dict[str, int] = {}
    vocabularies = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata in all_vocabularies().items():
            path = Path(folder) / "vocabulary.gguf"
            write_gguf(path, arch="llama", metadata=HYPERPARAMETERS | metadata, tensors=[], sparse=False)
            plain, special = ask(python, path, False), ask(python, path, True)

            def stored(values: list[Any]) -> list[int]:
                return [distinct.setdefault(json.dumps(value), len(distinct)) for value in values]

            vocabularies[name] = {
                "plain": stored(plain["ids"]),
                "special": stored(special["ids"]),
                "decoded": stored(special["texts"]),
                "pieces": stored(plain["pieces"]),
                **{key: plain[key] for key in ("eog", "bos", "eos", "add_bos", "add_eos")},
            }
            print(name)
    record = {
        "distinct": [json.loads(value) for value in distinct],
        "vocabularies": vocabularies,
        "endings": ask_for_endings(python),
    }
    DATA.mkdir(exist_ok=True)
    target = DATA / "llama_cpp_ids.json.gz"
    target.write_bytes(gzip.compress(json.dumps(record, separators=(",", ":")).encode(), mtime=0))
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: record_tokenizer_ids.py ORACLE_PYTHON")
    main(sys.argv[1])
