#!/usr/bin/env python3
"""Record which types llama.cpp gives to a model's tensors, for tests/data/mixes.json.

    python scripts/recording/record_mixes.py --peer-python PYTHON NAME=model-f16.gguf ... > tests/data/mixes.json

The models are small ones of scripts/make_synthetic.py. Of each: names and shapes, and by file type, with an importance
matrix or without, the numbers of tensors by type.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.convert.mixes import FLOATS, MIXES, is_kept  # noqa: E402  # after the path is set
from powerinfer_cli.gguf_io import open_gguf  # noqa: E402  # after the path is set


def main() -> int:
    """0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--peer-python", required=True)
    args = parser.parse_args()
    found = {name: recorded(Path(path), args.peer_python) for name, path in (one.split("=") for one in args.models)}
    json.dump(found, sys.stdout, separators=(",", ":"))
    return 0


def recorded(path: Path, python: str) -> dict[str, Any]:
    """Of one model."""
    with open_gguf(path) as gguf:
        tensors = {name: list(one.shape) for name, one in gguf.tensors.items() if not is_kept(name, len(one.shape))}
    names = list(tensors)
    with tempfile.TemporaryDirectory() as scratch:
        weights, target = Path(scratch) / "weights.npz", Path(scratch) / "out.gguf"
        ones = {name: np.ones(shape[-1] * (shape[0] if len(shape) > 2 else 1)) for name, shape in tensors.items()}
        np.savez(weights, **ones)
        mixes: dict[str, dict[str, list[int]]] = {}
        for name, mix in MIXES.items():
            for important in () if mix.base in FLOATS else (False, True):
                command = [
                    python,
                    str(ROOT / "scripts/peers/llama_cpp_quantize.py"),
                    str(path),
                    str(target),
                    str(mix.number),
                ]
                command += ["--imatrix", str(weights)] if important else []
                if subprocess.run(command, check=False).returncode:
                    continue  # it wants an importance matrix
                by_type: dict[str, list[int]] = {}
                with open_gguf(target) as gguf:
                    for number, tensor in enumerate(names):
                        by_type.setdefault(gguf.tensors[tensor].type.name, []).append(number)
                mixes[f"{name}{'+' if important else ''}"] = by_type
    return {"tensors": tensors, "mixes": mixes}


if __name__ == "__main__":
    sys.exit(main())
