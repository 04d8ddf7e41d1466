#!/usr/bin/env python3
"""Write a ReLU-sparse llama of any size as a PowerInfer GGUF, or its dense twin as a plain GGUF.

No training: the weights are random, but activation rates are as asked for, and the predictors are exact. What such a
model writes is noise; timings, memory, placement and numerics are real. The dense twin holds the same numbers; other
programs run it with SiLU in place of ReLU: the same cost, other text.

    python scripts/make_synthetic.py s1b.powerinfer.gguf              # 1.1B, Q4_0, 90 % sparse
    python scripts/make_synthetic.py s1b.gguf --dense                 # the same weights, for llama.cpp
    python scripts/make_synthetic.py s7b.powerinfer.gguf --embd 4096 --ff 11008 --layers 32 --kv 32 --rank 512
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.synthetic.model import write_model  # noqa: E402  # after the path is set
from scripts.synthetic.types import FILE_TYPES  # noqa: E402  # after the path is set
from scripts.synthetic.weights import Shape  # noqa: E402  # after the path is set

BLOCK = 32  # numbers in the smallest quantised block


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    default = Shape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file to write")
    for name, what in {
        "embd": "width of the residual stream",
        "ff": "neurons of a layer",
        "layers": "layers",
        "heads": "heads of attention",
        "kv": "heads of keys and values",
        "rank": "half of the predictor's hidden size",
        "vocab": "tokens",
        "ctx": "context length",
        "seed": "seed of all numbers",
    }.items():
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{what} (default {value})")
    parser.add_argument(
        "--sparsity", type=float, default=default.sparsity, metavar="N", help="share of idle neurons (default 0.9)"
    )
    parser.add_argument("--type", default="Q4_0", choices=list(FILE_TYPES), help="of the weights (default Q4_0)")
    parser.add_argument("--dense", action="store_true", help="the dense twin")
    return parser.parse_args(arguments)


def check(shape: Shape, file_type: str) -> str | None:
    """What is wrong with these sizes, in a line."""
    low = {"embd": 2, "ff": 1, "layers": 1, "heads": 1, "kv": 1, "rank": 2, "vocab": 3, "ctx": 1, "seed": 0}
    for name, least in low.items():
        if getattr(shape, name) < least:
            return f"--{name} must be at least {least}"
    if shape.embd % shape.heads or shape.embd // shape.heads % 2:
        return f"--embd {shape.embd} is not --heads {shape.heads} times an even number"
    if shape.heads % shape.kv:
        return f"--heads {shape.heads} is not a multiple of --kv {shape.kv}"
    if not 0.02 <= shape.sparsity <= 0.999:
        return f"--sparsity must be in [0.02, 0.999], got {shape.sparsity:g}"
    if not file_type.startswith("F") and (shape.embd % BLOCK or shape.ff % BLOCK or 2 * shape.rank % BLOCK):
        return f"--type {file_type} comes in blocks: --embd, --ff and twice --rank must be multiples of {BLOCK}"
    return None


def main(arguments: list[str] | None = None) -> None:
    """Write the file."""
    args = parse(arguments)
    shape = Shape(**{field.name: getattr(args, field.name) for field in fields(Shape)})
    if wrong := check(shape, args.type):
        sys.exit(f"error: {wrong}")
    try:
        write_model(args.out, shape, args.type, dense=args.dense)
    except OSError as error:
        sys.exit(f"error: {args.out}: {error.strerror or error}")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
