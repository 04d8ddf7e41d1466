#!/usr/bin/env python3
"""Compare the engine's logits with llama.cpp's on tiny random models.

Needs a Python that has llama-cpp-python (0.3.36, say), which need not be the one that runs this:

    PYTHONPATH=. python scripts/check_logits.py /path/to/python/with/llama_cpp

Weights in F32 and in Q8_0, keys and values in F32. llama.cpp itself rounds activations to 8 bits when weights are
Q8_0, and computes GELU from a table of float16, and SiLU by a polynomial: hence the tolerances. Left out: sparse
models and opt, which llama.cpp does not know, and YaRN's own beta and attention factors, which it does not read.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import tiny_model

CASES = [
    "llama",
    "llama-all-kv-heads",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "llama-wide-heads",
    "llama-biases",
    "mistral",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "falcon-7b",
    "falcon-40b",
]
TOLERANCE = {GGMLType.F32: 1e-4, GGMLType.Q8_0: 0.15}
GELU_TOLERANCE = 2e-2
N_VOCAB = 320
IDS = [int(i) for i in np.random.default_rng(11).integers(0, N_VOCAB, 48)]

PEER = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, out, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = Llama(path, n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, type_k=0, type_v=0, verbose=False)
model.eval(ids)
np.save(out, np.array(model.scores[: len(ids)], np.float32))
"""


def with_vocabulary(model: ModelFile) -> ModelFile:
    """The smallest SentencePiece vocabulary that llama.cpp loads: specials, bytes, and words; random rows for it."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [f"w{number}" for number in range(N_VOCAB - len(pieces))]
    rng = np.random.default_rng(2)
    rows = {}
    for name in ("token_embd.weight", "output.weight"):
        if name in model.tensors:
            old = model.tensors[name]
            rows[name] = (rng.standard_normal((N_VOCAB, old.shape[1])) * old.std()).astype(np.float32)
    vocabulary = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces + words,
        "tokenizer.ggml.scores": [0.0] * N_VOCAB,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        f"{model.arch}.vocab_size": N_VOCAB,
    }
    return ModelFile(model.arch, {**model.metadata, **vocabulary}, {**model.tensors, **rows})


def difference(python: Path, model: ModelFile, folder: Path) -> tuple[float, float]:
    """The largest difference of a logit, fed as one batch and token by token, and the logits' standard deviation."""
    path = model.write(folder / "model.gguf")
    command = [python, "-c", PEER, path, folder / "logits.npy", json.dumps(IDS)]
    peer = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if peer.returncode:
        sys.exit(f"{peer.stderr}\nllama.cpp did not run the model")
    theirs = np.load(folder / "logits.npy")
    engine = Engine.load(open_gguf(path), EngineOptions(n_ctx=64))
    batch = engine.logits(IDS)
    engine.reset()
    single = np.stack([engine.decode(token) for token in IDS])
    return float(max(np.abs(batch - theirs).max(), np.abs(single - theirs).max())), float(theirs.std())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path, help="a Python that can import llama_cpp")
    python = parser.parse_args().python
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            model = with_vocabulary(tiny_model(name).file)
            for kind, tolerance in TOLERANCE.items():
                stored = model if kind is GGMLType.F32 else model.stored_as(kind)
                largest, spread = difference(python, stored, Path(folder))
                allowed = max(tolerance, GELU_TOLERANCE) if model.arch == "falcon" else tolerance
                failed = not largest <= allowed * max(1.0, spread)
                failures += failed
                verdict = "FAILED" if failed else "ok"
                print(f"{name:20} {kind.name:5} difference {largest:.1e} of logits {spread:.2f} {verdict}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
