"""What coarser types of predictors cost: which neurons they let through, beside those of the file's own type.

Each type sees what the layers of a PowerInfer file see in stories that nobody was trained on:
`python -m scripts.bench.predictor_types [FILE [TOKENS]]`.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, GGUFFile, dequantize, open_gguf
from powerinfer_cli.kernels.cpu.encoding import encode_rows
from powerinfer_cli.opening import bundled_model
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.text import Tokenizer
from scripts.demo_model.corpus import stories

Floats = npt.NDArray[np.floating]
Types = tuple[GGMLType, GGMLType]  # of fc1 and fc2
_T = GGMLType
TRIED: tuple[Types, ...] = (
    (_T.Q8_0, _T.Q8_0),
    (_T.Q6_K, _T.Q8_0),
    (_T.Q5_0, _T.Q8_0),
    (_T.Q8_0, _T.Q5_0),
    (_T.Q5_1, _T.Q5_1),
    (_T.Q5_0, _T.Q5_0),
    (_T.Q4_1, _T.Q4_1),
    (_T.Q4_0, _T.Q4_0),
)
Counts = dict[tuple[Types, str], float]


def main() -> None:
    """Print a table: a type a row."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else bundled_model()
    n_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
    counts: Counts = defaultdict(float)
    with open_gguf(path) as gguf:
        tokenizer = Tokenizer.from_gguf(gguf)
        engine = Engine.load(gguf, EngineOptions(n_threads=1))
        decoded = {kind: _predictors(gguf, kind) for kind in TRIED}
        for ids in islice(_chunks(tokenizer, engine.n_ctx), n_tokens // engine.n_ctx):
            engine.record(ids, partial(_count, counts, decoded))
    print("| fc1, fc2 | decisions that differ | recall | of the activations' sum | let through |")
    for kind in TRIED:
        total, fired = counts[kind, "all"], counts[kind, "fired"]
        print(
            f"| {', '.join(one.name for one in kind)} | {counts[kind, 'differ'] / total:.2%} "
            f"| {counts[kind, 'met'] / fired:.2%} | {counts[kind, 'kept'] / counts[kind, 'mass']:.2%} "
            f"| {counts[kind, 'through'] / total:.2%} |"
        )


def _chunks(tokenizer: Tokenizer, size: int) -> Iterator[list[int]]:
    ids = chain.from_iterable(tokenizer.encode(text, add_special=True) for text in stories(7, held_out=True))
    while True:
        yield list(islice(ids, size))


def _predictors(gguf: GGUFFile, kinds: Types) -> list[tuple[Floats, Floats]]:
    def decoded(name: str, kind: GGMLType) -> Floats:
        tensor = gguf.tensors[name]
        return dequantize(encode_rows(tensor.rows(), tensor.type, kind), kind)

    layers = range(gguf.get(f"{gguf.get('general.architecture', str)}.block_count", int))
    return [(decoded(f"blk.{i}.fc1.weight", kinds[0]), decoded(f"blk.{i}.fc2.weight", kinds[1])) for i in layers]


def _count(
    counts: Counts,
    decoded: dict[Types, list[tuple[Floats, Floats]]],
    layer: int,
    residual: Floats,
    activations: Floats,
) -> None:
    fired, sizes = activations != 0, np.abs(activations)
    through = {kind: np.maximum(residual @ of[layer][0].T, 0) @ of[layer][1].T >= 0 for kind, of in decoded.items()}
    for kind, here in through.items():
        counts[kind, "all"] += here.size
        counts[kind, "fired"] += int(fired.sum())
        counts[kind, "met"] += int((fired & here).sum())
        counts[kind, "mass"] += float(sizes.sum())
        counts[kind, "kept"] += float(sizes[here].sum())
        counts[kind, "through"] += int(here.sum())
        counts[kind, "differ"] += int((here != through[TRIED[0]]).sum())


if __name__ == "__main__":
    main()
