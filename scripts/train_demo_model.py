#!/usr/bin/env python3
"""Make the bundled model from nothing: corpus, vocabulary, training, predictors, PowerInfer GGUF, model card.

Seeded and on the CPU in about an hour, or on a GPU. Needs nothing but the package's own dependencies.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.demo_model.card import read_training, render  # noqa: E402  # after the path is set
from scripts.demo_model.run import RECIPE, SMOKE, make, remake_predictors, write_held_out  # noqa: E402  # after the path is set

CARD = "MODEL_CARD.md"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the bundled storyteller model from nothing.")
    parser.add_argument("--out", type=Path, default=ROOT / "powerinfer_cli" / "bundled", help="where the model goes")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo_model", help="for checkpoint and log")
    parser.add_argument("--held-out", type=Path, help="also write held-out stories to this file")
    parser.add_argument("--steps", type=int, help=f"training steps (default {RECIPE.steps})")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything (default 1)")
    parser.add_argument("--device", default="cpu", help="torch device for training (default cpu)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument(
        "--predictors-only",
        action="store_true",
        help="keep the model in --out, and make predictors and statistics anew",
    )
    parser.add_argument("--smoke", action="store_true", help="a toy model in seconds, for tests")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Make the model, the activation files, the card, and perhaps the held-out text."""
    args = parse(arguments)
    if not hasattr(torch.optim, "Muon"):
        sys.exit("error: training needs torch 2.9 or newer (for torch.optim.Muon); running the model does not")
    recipe = SMOKE if args.smoke else RECIPE
    if args.steps:
        recipe = replace(recipe, steps=args.steps)
    if args.threads:
        torch.set_num_threads(args.threads)
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        print(line, flush=True)
        with (work / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    if args.predictors_only:
        training = read_training((args.out / CARD).read_text(encoding="utf-8"))
        made = remake_predictors(recipe, args.out, training, seed=args.seed, log=log)
    else:
        made = make(recipe, args.out, work, seed=args.seed, device=args.device, resume=args.resume, log=log)
    card = render(made, args.seed)
    (args.out / CARD).write_text(card, encoding="utf-8")
    if args.held_out:
        write_held_out(args.held_out, args.seed)
    log(card)


if __name__ == "__main__":
    main()
