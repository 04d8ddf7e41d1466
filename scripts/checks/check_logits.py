#!/usr/bin/env python3
"""Compare the engine's logits with llama.cpp's on tiny random models.

Needs a Python that has llama-cpp-python (0.3.36, say), which need not be the one that runs this:

    PYTHONPATH=. python scripts/checks/check_logits.py /path/to/python/with/llama_cpp

Keys and values are F32 on both sides. With weights in F32 the logits must be the same; with Q8_0 and Q4_0 both round
activations to 8 bits, each in its way, and they must be as near to each other as llama.cpp's are to what the same
weights give in F32: the root mean square of the difference is compared, of all logits of a batch and of single tokens.
Left out: sparse models and opt, which llama.cpp does not know, and YaRN's own beta and attention factors, which it does
not read. llama.cpp computes GELU from a table of float16: hence the tolerance of falcon in F32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import tiny_model

Logits = npt.NDArray[np.float32]

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
KINDS = [GGMLType.F32, GGMLType.Q8_0, GGMLType.Q4_0]
TOLERANCE, GELU_TOLERANCE = 2e-5, 4e-3  # of a logit in F32, for logits of deviation 1
SHARE = 1.1  # of llama.cpp's own distance from F32
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


@dataclass(frozen=True)
class Found:
    """Logits [tokens, n_vocab]: ours as one batch and token by token, llama.cpp's, and the reference engine's."""

    batch: Logits
    single: Logits
    theirs: Logits
    exact: Logits

    @property
    def spread(self) -> float:
        return max(1.0, float(self.theirs.std()))

    @property
    def largest(self) -> float:
        """Difference between a logit of ours and of llama.cpp's."""
        return float(max(np.abs(self.batch - self.theirs).max(), np.abs(self.single - self.theirs).max()))

    @property
    def ours_from_theirs(self) -> float:
        return max(_distance(self.batch, self.theirs), _distance(self.single, self.theirs))

    @property
    def theirs_from_exact(self) -> float:
        return _distance(self.theirs, self.exact)


def _distance(a: Logits, b: Logits) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def run_both(python: Path, model: ModelFile, folder: Path) -> Found:
    path = model.write(folder / "model.gguf")
    command = [python, "-c", PEER, path, folder / "logits.npy", json.dumps(IDS)]
    peer = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if peer.returncode:
        sys.exit(f"{peer.stderr}\nllama.cpp did not run the model")
    engine = Engine.load(open_gguf(path), EngineOptions(n_ctx=64, type_k="f32", type_v="f32"))
    batch = engine.logits(IDS)
    engine.reset()
    single = np.stack([engine.decode(token) for token in IDS])
    exact = Engine.load(open_gguf(path), EngineOptions(n_ctx=64, reference=True)).logits(IDS)
    return Found(batch, single, np.load(folder / "logits.npy"), exact)


def verdict(found: Found, kind: GGMLType, arch: str) -> tuple[bool, str]:
    """Whether it is near enough, and the figures."""
    if kind is GGMLType.F32:
        allowed = (GELU_TOLERANCE if arch == "falcon" else TOLERANCE) * found.spread
        return found.largest <= allowed, f"largest difference {found.largest:.1e}, allowed {allowed:.1e}"
    ours, theirs = found.ours_from_theirs, found.theirs_from_exact
    return ours <= SHARE * theirs, f"from llama.cpp {ours:.1e}, llama.cpp from F32 {theirs:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path, help="a Python that can import llama_cpp")
    python = parser.parse_args().python
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            model = with_vocabulary(tiny_model(name).file)
            for kind in KINDS:
                stored = model if kind is GGMLType.F32 else model.stored_as(kind)
                found = run_both(python, stored, Path(folder))
                passed, figures = verdict(found, kind, model.arch)
                failures += not passed
                print(f"{name:20} {kind.name:5} {'ok' if passed else 'FAILED':6} {figures}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
