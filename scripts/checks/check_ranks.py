#!/usr/bin/env python3
"""Compare a model's layers on several ranks with the same on one machine: all must be equal to the bit.

    python scripts/checks/check_ranks.py    # the tests' tiny models of each family, on 2, 3 and 4 ranks
    python scripts/checks/check_ranks.py --ranks 2 qwen3next

A line a model and number of ranks. What is compared: prompts, single tokens, drafts, several texts at once, contexts
that are cut, shifted, saved and restored.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.errors import PowerInferError  # noqa: E402  # after the path is set
from powerinfer_cli.gguf_io import open_gguf  # noqa: E402  # after the path is set
from powerinfer_cli.model import load_model  # noqa: E402  # after the path is set
from powerinfer_cli.model.ranges import divide  # noqa: E402  # after the path is set
from powerinfer_cli.runtime import Engine  # noqa: E402  # after the path is set
from tests.helpers.cluster.ranks import OPTIONS, engine_of_ranks, told  # noqa: E402  # after the path is set
from tests.helpers.families import FAMILIES, tiny_family  # noqa: E402  # after the path is set


def main() -> int:
    """0 where all are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4], metavar="N")
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        answers = [alike(name, given.ranks, Path(scratch)) for name in given.families]
        return int(not all(answers))


def alike(name: str, ranks: list[int], folder: Path) -> bool:
    """Whether a family's model is the same on so many ranks, as far as it has the layers, with its lines."""
    path = tiny_family(name).file.write(folder / f"{name}.gguf")
    model = load_model(open_gguf(path))
    engine = Engine.load(open_gguf(path), OPTIONS)
    wanted = told(engine)
    engine.close()
    answers = []
    for n in ranks:
        try:
            divide(model, n)
        except PowerInferError as error:
            print(f"{name:24} {error}", flush=True)
            continue
        with engine_of_ranks(path, n, OPTIONS) as several:
            found = told(several)
        pairs = zip(found, wanted, strict=True)
        answers.append(all(np.array_equal(one, other) for one, other in pairs))
        print(f"{name:24} {n} ranks: {'equal' if answers[-1] else 'DIFFERENT'}", flush=True)
    return all(answers)


if __name__ == "__main__":
    sys.exit(main())
