"""What a draft model brings that was trained for itself: two story models of one vocabulary, in turns, in one process.

Usage: python scripts/bench/draft_pair.py [--layers 60] [-n TOKENS] [--sparse]

The bundled model is as small as its draft model, the mixture in tests/data (another architecture, trained on the same
kind of stories). So it gets layers behind its own that cost what layers cost and add nothing: it writes what it always
does, and how often the mixture foresees that is real; only what a token costs is chosen. Greedy, one thread. Prints how
many times as fast decoding is, in processor time and by the clock, what was accepted, and the first token's latency.
"""

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.gguf_io import Tensor, open_gguf, write_gguf  # noqa: E402  # after the path is set
from powerinfer_cli.opening import bundled_model, open_model  # noqa: E402  # after the path is set
from scripts.bench.drafting import Run, run  # noqa: E402  # after the path is set

SMALL = ROOT / "tests" / "data" / "storyteller-experts.gguf"
PROMPTS = ("Once upon a time", "Tom and his dog went to the", "The little girl was sad because")
ADDING = ("attn_output.weight", "ffn_down_t.weight")  # what a layer writes by


def deepened(path: Path, n_layers: int) -> Path:
    """The bundled model with so many layers more, copies of its own but for what they add: zeros."""
    file = open_gguf(bundled_model())
    metadata: dict[str, Any] = {key: value for key, value in file.metadata.items() if key != "general.architecture"}
    tokens = "tokenizer.ggml.tokens"
    metadata[tokens] = list(metadata[tokens])
    own = int(metadata["llama.block_count"])
    metadata["llama.block_count"] = own + n_layers
    tensors = [(name, _data(tensor), tensor.type) for name, tensor in file.tensors.items()]
    for i in range(n_layers):
        for name, tensor in file.tensors.items():
            found = re.fullmatch(rf"blk\.{i % own}\.(.*)", name)
            if found is not None:
                data = _data(tensor)
                tensors.append((f"blk.{own + i}.{found[1]}", data * (found[1] not in ADDING), tensor.type))
    write_gguf(path, arch="llama", metadata=metadata, tensors=tensors, sparse=file.sparse)
    return path


def _data(tensor: Tensor) -> np.ndarray:
    return tensor.rows().copy() if len(tensor.shape) > 1 else tensor.to_float32()


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description="Measure a draft model that was trained for itself.")
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("-n", "--tokens", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sparse", action="store_true", help="ask the predictors; else every neuron is computed")
    asked = parser.parse_args()
    shared = {"n_ctx": 512, "n_threads": 1, "all_active": not asked.sparse}
    with tempfile.TemporaryDirectory() as folder:
        target = deepened(Path(folder) / "deep.gguf", asked.layers)
        with open_model(target, **shared) as plain, open_model(target, model_draft=SMALL, **shared) as drafting:
            pairs: list[tuple[Run, Run]] = []
            for model in (plain, drafting):
                run(model, model.tokenizer.encode(PROMPTS[0]), 30)  # what is compiled or read at first
            for number in range(asked.rounds * len(PROMPTS)):
                ids = list(plain.tokenizer.encode(PROMPTS[number % len(PROMPTS)]))
                order = (plain, drafting) if number % 2 else (drafting, plain)
                found = {id(model): run(model, ids, asked.tokens) for model in order}
                pairs.append((found[id(plain)], found[id(drafting)]))
    processor, clock = (
        sum(getattr(a, what) for a, _ in pairs) / sum(getattr(b, what) for _, b in pairs)
        for what in ("processor", "rest")
    )
    accepted, proposed = (sum(getattr(b, what) for _, b in pairs) for what in ("accepted", "proposed"))
    first = statistics.median(b.first / a.first for a, b in pairs)
    same = all(a.ids == b.ids for a, b in pairs)
    print(f"{processor:.2f}x in processor time, {clock:.2f}x by the clock; {accepted} of {proposed} accepted")
    print(f"first token: {first:.2f} times; same texts: {same}")


if __name__ == "__main__":
    main()
