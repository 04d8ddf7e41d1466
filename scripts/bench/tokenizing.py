"""Measure how fast texts are tokenized.

Usage: python scripts/bench/tokenizing.py VOCABULARY.gguf... [--text FILE]

Without a file the text is 4 MB of made-up words, drawn by Zipf's law from a seeded lexicon. Prints MB per second of
processor time for a text that is seen for the first time, again with its words cached, and for 1 MB that is one word.
"""

import argparse
import random
import time
from pathlib import Path

from powerinfer_cli.text import Tokenizer

MEGABYTE = 1_000_000


def made_up_text(size: int) -> str:
    """`size` characters of sentences over 40,000 words, of which most are rare."""
    rng = random.Random(7)
    syllables = [a + b + c for a in ["", *"bcdfghlmnprstvw", "th", "st"] for b in "aeiou" for c in ["", *"nrstlmd"]]
    lexicon = ["".join(rng.choices(syllables, k=rng.choice([1, 1, 2, 2, 3, 4]))) for _ in range(40_000)]
    weights = [1 / (rank + 2) for rank in range(len(lexicon))]
    parts: list[str] = []
    length = 0
    while length < size:
        words = rng.choices(lexicon, weights, k=rng.randrange(4, 20))
        sentence = " ".join(words).capitalize() + rng.choice([". ", ". ", "! ", "?\n", ", 1984. ", ".\n\n"])
        parts.append(sentence)
        length += len(sentence)
    return "".join(parts)[:size]


def main() -> None:
    """Print a line for each vocabulary."""
    parser = argparse.ArgumentParser(description="Measure how fast texts are tokenized.")
    parser.add_argument("vocabularies", nargs="+")
    parser.add_argument("--text", type=Path)
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8") if options.text else made_up_text(4 * MEGABYTE)
    size = len(text.encode()) / MEGABYTE
    for path in options.vocabularies:
        start = time.process_time()
        tokenizer = Tokenizer.from_gguf(path)
        loaded = time.process_time()
        ids = tokenizer.encode(text)
        cold = time.process_time()
        tokenizer.encode(text)
        warm = time.process_time()
        tokenizer.encode("a" * MEGABYTE)
        one_word = time.process_time()
        print(
            f"{Path(path).name}: load {loaded - start:.2f} s, {len(ids)} ids, {size / (cold - loaded):.1f} MB/s cold, "
            f"{size / (warm - cold):.1f} MB/s warm, 1 MB of one letter {one_word - warm:.1f} s"
        )


if __name__ == "__main__":
    main()
