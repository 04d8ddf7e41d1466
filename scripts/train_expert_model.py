#!/usr/bin/env python3
"""Make the storyteller with experts from nothing: the bundled model's corpus, a router that learns, a GGUF, its card.

Seeded and on the CPU, in less than an hour on two cores. It is not part of the package: tests and benchmarks read it,
where random weights would not do, as what is used often there is no accident.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.demo_model.experts.run import EXPERTS, SMOKE, make  # noqa: E402  # after the path is set


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the storyteller with experts from nothing.")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "data", help="where model and card go")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "expert_model", help="for the checkpoint")
    parser.add_argument("--steps", type=int, help=f"training steps (default {EXPERTS.steps})")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything (default 1)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument("--smoke", action="store_true", help="a toy model in seconds, for tests")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Make the model and its card."""
    args = parse(arguments)
    torch.set_num_threads(1)  # each of two workers has a batch of its own
    recipe = SMOKE if args.smoke else EXPERTS
    args.work.mkdir(parents=True, exist_ok=True)
    print(
        make(
            replace(recipe, steps=args.steps or recipe.steps),
            args.out,
            args.work,
            seed=args.seed,
            resume=args.resume,
            log=lambda line: print(line, flush=True),
        )
    )


if __name__ == "__main__":
    main()
