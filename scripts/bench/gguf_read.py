"""How long reading a large vocabulary takes: this package's reader beside `gguf.GGUFReader`.

    python scripts/bench/gguf_read.py [FILE.gguf]

Without a file it makes one with as many tokens and merges as Llama 3 has.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from powerinfer_cli.gguf_io import WritableValue, open_gguf, write_gguf

N_TOKENS = 128_256
N_MERGES = 280_147
REPEATS = 5


def make_vocabulary(path: Path) -> None:
    """Words of two to twelve letters, as long as a real vocabulary's on average."""
    random = np.random.default_rng(0)
    letters = random.integers(ord("a"), ord("z") + 1, (N_TOKENS, 12), np.uint8)
    lengths = random.integers(2, 13, N_TOKENS)
    words = [bytes(row[:n]).decode() for row, n in zip(letters, lengths, strict=True)]
    merges = [f"\u0120{words[i % N_TOKENS]} {words[i // 3]}" for i in range(N_MERGES)]
    metadata: dict[str, WritableValue] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": np.ones(N_TOKENS, np.int32),
        "tokenizer.ggml.merges": merges,
    }
    write_gguf(path, arch="llama", metadata=metadata, tensors=[], sparse=False)


def seconds(read: Callable[[Path], object], path: Path, repeats: int) -> float:
    """The shortest of `repeats` readings."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        read(path)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the reading of a GGUF file's vocabulary.")
    parser.add_argument("file", nargs="?", type=Path, help="a GGUF file (default: make one)")
    given: Path | None = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        path = given or Path(folder) / "vocabulary.gguf"
        if given is None:
            make_vocabulary(path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
        ours = seconds(open_gguf, path, REPEATS)
        print(f"powerinfer_cli.gguf_io  {ours:8.3f} s")
        theirs = seconds(gguf.GGUFReader, path, 1)
        print(f"gguf.GGUFReader         {theirs:8.3f} s")
        print(f"ratio                   {theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
