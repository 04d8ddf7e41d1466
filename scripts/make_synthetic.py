#!/usr/bin/env python3
"""Write a synthetic model of any size: a ReLU-sparse llama, its dense twin, or a mixture of experts.

No training: the weights are random, but activation rates and the use of experts are as asked for, and predictors are
exact. What such a model writes is noise; timings, memory, placement and numerics are real. The dense twin holds the
same numbers; other programs run it with SiLU in place of ReLU: the same cost, other text.

    python scripts/make_synthetic.py s1b.powerinfer.gguf              # 1.1B, Q4_0, 90 % sparse
    python scripts/make_synthetic.py s1b.gguf --dense                 # the same weights, for llama.cpp
    python scripts/make_synthetic.py s7b.powerinfer.gguf --embd 4096 --ff 11008 --layers 32 --kv 32 --rank 512
    python scripts/make_synthetic.py e3b.gguf --experts 128 --layers 6            # qwen3moe, 8 of 128 experts of 768
    python scripts/make_synthetic.py oss.gguf --arch gpt-oss --experts 32 --chosen 4 --embd 2880 --ff 2880 --heads 64 \\
        --kv 8 --head-dim 64 --type MXFP4 --layers 4
    python scripts/make_synthetic.py q35.gguf --arch qwen35moe --experts 256 --ff 512 --heads 16 --kv 2 \\
        --head-dim 256 --layers 8
    python scripts/make_synthetic.py qwen3.gguf --shape qwen3-30b-a3b               # sizes without weights, to plan for
    python scripts/make_synthetic.py drift.gguf --experts 64 --skew 1 --topics 4  # tokens of a topic have experts of it
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.synthetic.experts import ARCHITECTURES, ExpertShape, write_experts  # noqa: E402  # after the path is set
from scripts.synthetic.model import write_model  # noqa: E402  # after the path is set
from scripts.synthetic.shapes import SHAPES, write_shape  # noqa: E402  # after the path is set
from scripts.synthetic.statistics import write_statistics  # noqa: E402  # after the path is set
from scripts.synthetic.types import FILE_TYPES  # noqa: E402  # after the path is set
from scripts.synthetic.weights import Shape  # noqa: E402  # after the path is set

BLOCK = 32  # numbers in the smallest quantised block

SIZES = {
    "embd": "width of the residual stream",
    "ff": "neurons of a layer, or of an expert",
    "layers": "layers",
    "heads": "heads of attention",
    "kv": "heads of keys and values",
    "rank": "half of the predictor's hidden size",
    "vocab": "tokens",
    "ctx": "context length",
    "seed": "seed of all numbers",
    "chosen": "of experts: how many a token needs",
    "head_dim": "of experts: numbers of a head",
    "topics": "of experts: kinds of tokens, each of which has popular experts of its own",
}
KNOWN = ("out", "type", "dense", "shape", "statistics")  # of all models
LEAST = {"embd": 2, "rank": 2, "vocab": 3, "seed": 0}  # else 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. What is not given is None."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--experts", type=int, metavar="N", help="a mixture of so many experts in each layer")
    parser.add_argument("--arch", choices=ARCHITECTURES, help="of experts (default qwen3moe)")
    for name, what in SIZES.items():
        found = [getattr(shape, name) for shape in (Shape(), ExpertShape()) if hasattr(shape, name)]
        default = " / ".join(map(str, dict.fromkeys(found)))
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{what} (default {default})")
    parser.add_argument("--sparsity", type=float, metavar="N", help="share of idle neurons (default 0.9)")
    parser.add_argument(
        "--skew",
        type=float,
        metavar="N",
        help="of experts: exponent of the power law of their use, 0: all alike (default 0.5)",
    )
    parser.add_argument("--type", default="Q4_0", choices=list(FILE_TYPES), help="of the weights (default Q4_0)")
    parser.add_argument("--shape", choices=SHAPES, help="a known model's sizes; no other option, and no numbers")
    parser.add_argument("--dense", action="store_true", help="the dense twin")
    parser.add_argument("--statistics", action="store_true", help="beside a sparse model: how often its neurons fire")
    return parser.parse_args(arguments)


def shape_of(args: argparse.Namespace) -> Shape | ExpertShape:
    """What was asked for, and defaults for the rest. Exits where an option belongs to the other kind of model."""
    kind = Shape if args.experts is None else ExpertShape
    names = {field.name for field in fields(kind)}
    given: dict[str, Any] = {
        name: value for name, value in vars(args).items() if value is not None and name not in KNOWN
    }
    for name in given.keys() - names:
        sys.exit(f"error: --{name.replace('_', '-')} is for models {'without' if args.experts else 'of'} --experts")
    if args.experts is not None and args.dense:
        sys.exit("error: --dense is for models without --experts")
    if args.statistics and (args.dense or args.experts is not None):
        sys.exit("error: --statistics is for sparse models")
    return kind(**given)


def check(shape: Shape | ExpertShape, file_type: str) -> str | None:
    """What is wrong with these sizes, in a line."""
    for field in fields(shape):
        least = LEAST.get(field.name, 1)
        if field.type is int and getattr(shape, field.name) < least:
            return f"--{field.name.replace('_', '-')} must be at least {least}"
    if shape.heads % shape.kv:
        return f"--heads {shape.heads} is not a multiple of --kv {shape.kv}"
    if wrong := _check_llama(shape) if isinstance(shape, Shape) else _check_experts(shape):
        return wrong
    other = 2 * shape.rank if isinstance(shape, Shape) else shape.heads * shape.head_dim
    if not file_type.startswith("F") and any(n % BLOCK for n in (shape.embd, shape.ff, other)):
        what = "--embd, --ff and twice --rank" if isinstance(shape, Shape) else "--embd, --ff and all heads' width"
        return f"--type {file_type} comes in blocks: {what} must be multiples of {BLOCK}"
    return None


def _check_llama(shape: Shape) -> str | None:
    if shape.embd % shape.heads or shape.embd // shape.heads % 2:
        return f"--embd {shape.embd} is not --heads {shape.heads} times an even number"
    if not 0.02 <= shape.sparsity <= 0.999:
        return f"--sparsity must be in [0.02, 0.999], got {shape.sparsity:g}"
    return None


def _check_experts(shape: ExpertShape) -> str | None:
    if shape.chosen > shape.experts:
        return f"--chosen {shape.chosen} is more than --experts {shape.experts}"
    if shape.head_dim % 2:
        return f"--head-dim {shape.head_dim} is odd"
    if not 0 <= shape.skew <= 10:
        return f"--skew must be in [0, 10], got {shape.skew:g}"
    if shape.topics > min(shape.embd // 2, shape.vocab):
        return f"--topics {shape.topics} is more than half of --embd, or than --vocab"
    return None


def main(arguments: list[str] | None = None) -> None:
    """Write the file."""
    args = parse(arguments)
    if args.shape is not None:
        if args != parse([str(args.out), "--shape", args.shape]):
            sys.exit("error: --shape says all sizes and types: give no other option")
        write_shape(args.out, args.shape)
        print(f"{args.out}: {args.out.stat().st_size / 1e9:.1f} GB of holes")
        return
    shape = shape_of(args)
    if wrong := check(shape, args.type):
        sys.exit(f"error: {wrong}")
    try:
        if isinstance(shape, Shape):
            write_model(args.out, shape, args.type, dense=args.dense)
            if args.statistics:
                write_statistics(args.out, shape)
        else:
            write_experts(args.out, shape, args.type)
    except OSError as error:
        sys.exit(f"error: {args.out}: {error.strerror or error}")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
