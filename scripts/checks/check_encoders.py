#!/usr/bin/env python3
"""Compare the tests' tiny encoders with llama.cpp: what the file means to it must be what the torch model computes.

    python scripts/checks/check_encoders.py --peer-python VENV/bin/python    # a Python that has llama_cpp

A line a model: the cosine of llama.cpp's vectors, pooled by mean, with the torch model's, and with ours. GELU is of the
tanh form in llama.cpp, and a table of 16 bit numbers, so that those that have it agree in three digits only.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.gguf_io import open_gguf  # noqa: E402  # after the path is set
from powerinfer_cli.model import load_model  # noqa: E402  # after the path is set
from powerinfer_cli.opening.context import Context  # noqa: E402  # after the path is set
from powerinfer_cli.runtime import Engine, EngineOptions  # noqa: E402  # after the path is set
from tests.helpers.families.encoders import ENCODERS, RERANKERS, states, tiny_encoder  # noqa: E402  # after the path is set
from tests.helpers.families.family import PROMPT  # noqa: E402  # after the path is set

AGREES = 0.9999
IDS = np.array([[max(token, 3) for token in PROMPT[at : at + 40]] for at in (0, 20, 40)], np.int32)


def main() -> int:
    """0 where all agree that llama.cpp opens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, metavar="PATH", help="a Python that has llama_cpp")
    peer = parser.parse_args().peer_python
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "ids.npy", IDS)
        answers = [told(name, Path(scratch), peer) for name in ENCODERS if name not in RERANKERS]
        return int(not all(answers))


def told(name: str, folder: Path, peer_python: str) -> bool:
    """Whether a model is as it should be, with its line."""
    tiny, path, target = tiny_encoder(name), folder / f"{name}.gguf", folder / f"{name}.npy"
    metadata = {**tiny.file.metadata, "tokenizer.ggml.model": "no_vocab", "tokenizer.ggml.token_type_count": 2}
    if "token_types.weight" in tiny.file.tensors:
        metadata["tokenizer.ggml.token_type_count"] = len(tiny.file.tensors["token_types.weight"])
    replace(tiny.file, metadata=metadata).write(path)
    script = ROOT / "scripts" / "peers" / "llama_cpp_embeddings.py"
    command = [peer_python, str(script), str(path), str(folder / "ids.npy"), "1", str(IDS.size), str(target), "wall"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    torchs = np.stack([states(tiny, ids).mean(0) for ids in IDS.tolist()])
    engine = Engine(load_model(open_gguf(path)), EngineOptions(n_threads=1))
    ours = cosine(np.concatenate(Context(engine).hidden(IDS.tolist(), "mean")), torchs)
    if said.returncode:
        print(f"{name:20} ours {ours:.7f}  llama.cpp: {(said.stdout + said.stderr).strip()[-120:]}")
        return ours > AGREES
    peers = cosine(np.load(target), torchs)
    print(f"{name:20} ours {ours:.7f}  llama.cpp {peers:.7f}")
    return min(ours, peers) > AGREES


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least of the texts'."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


if __name__ == "__main__":
    sys.exit(main())
