#!/usr/bin/env python3
"""Compare the tests' tiny models of each family with llama.cpp: the file must mean to it what the torch model computes.

    python scripts/checks/check_families.py --peer-python VENV/bin/python    # a Python that has llama_cpp
    python scripts/checks/check_families.py --peer-python ... --only gemma3,phi2 --files FOLDER

A line a family: how far llama.cpp's logits are from the torch model's, in relation to the largest of those. GELU is a
table of 16 bit numbers in llama.cpp, of the tanh form for every family: those that have it agree in three digits only.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataclasses import replace  # noqa: E402  # after the path is set

from tests.helpers.families import DEEP, FAMILIES, PROMPT, peer_family  # noqa: E402  # after the path is set

AGREES, AGREES_WITH_GELU, OF_A_GELU = 2e-5, 2e-3, 5e-4


def main() -> int:
    """0 where all agree but those that are known to differ."""
    args = parse()
    names = args.only.split(",") if args.only else list(FAMILIES | DEEP)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.files or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write(names, folder)
        ask(names, folder, args.peer_python)
        answers = [told(name, folder) for name in names]
        return int(not all(answers))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, metavar="PATH", help="a Python that has llama_cpp")
    parser.add_argument("--only", metavar="NAME,...", help="of the families' cases")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="keep the files there")
    return parser.parse_args()


def write(names: list[str], folder: Path) -> None:
    """Each family's file, for llama.cpp: without a vocabulary, which it wants to hear."""
    np.save(folder / "ids.npy", np.array(PROMPT))
    for name in names:
        file = peer_family(name).file
        metadata = {**file.metadata, "tokenizer.ggml.model": "no_vocab"}
        replace(file, metadata=metadata).write(folder / f"{name}.gguf")


def ask(names: list[str], folder: Path, peer_python: str) -> None:
    """llama.cpp's logits of all, beside the files. A process a family: some files make it abort."""
    for name in names:
        (folder / f"{name}.npy").unlink(missing_ok=True)
        script, pair = (
            ROOT / "scripts" / "peers" / "llama_cpp_logits.py",
            (folder / f"{name}.gguf", folder / f"{name}.npy"),
        )
        command = [peer_python, str(script), str(folder / "ids.npy"), *map(str, pair)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode or said.stdout:
            print((said.stdout + said.stderr).strip()[-400:])


def told(name: str, folder: Path) -> bool:
    """Whether the family is as it should be, with its line."""
    family, path = (FAMILIES | DEEP)[name], folder / f"{name}.npy"
    tiny = peer_family(name)
    wanted = tiny.reference
    gelus = sum("gelu" in type(module).__name__.lower() for module in tiny.torch_model.modules())
    if path.exists():
        off = float(np.abs(np.load(path) - wanted).max() / np.abs(wanted).max())
        most = max(AGREES_WITH_GELU, OF_A_GELU * gelus) if gelus else AGREES
        agrees, text = off < most, f"{off:.1e}"
    else:
        agrees, text = False, "not opened"
    note = f" ({family.peer_differs})" if family.peer_differs else ""
    print(f"{name:18} {family.arch:13} {family.authority:14} {text:10} {'agrees' if agrees else 'differs'}{note}")
    return agrees or bool(family.peer_differs)


if __name__ == "__main__":
    sys.exit(main())
