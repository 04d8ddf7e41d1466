#!/usr/bin/env python3
"""Quantise a model by `powerinfer quantize` and by llama.cpp, and compare types, bytes and errors of every tensor.

    python scripts/checks/check_quantize.py model-f16.gguf --peer-python VENV/bin/python
    python scripts/checks/check_quantize.py model-f16.gguf --peer-python ... --only Q4_0,Q4_K_M --imatrix
    python scripts/checks/check_quantize.py model-f16.gguf --peer-python ... --only IQ2_S --importance im.gguf

A line a type: tensors of another type than llama.cpp's; of the legacy types, tensors whose bytes differ; of the others,
the largest error, weighted as the importance says, in relation to llama.cpp's; and seconds of both. With a text, its
perplexity by either file, both read by `powerinfer perplexity`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.convert.importance import Sums, read_importance, write_importance  # noqa: E402  # after the path is set
from powerinfer_cli.convert.mixes import MIXES, is_kept  # noqa: E402  # after the path is set
from powerinfer_cli.convert.quantizing import WRITABLE  # noqa: E402  # after the path is set
from powerinfer_cli.gguf_io import GGUFFile, open_gguf  # noqa: E402  # after the path is set
from powerinfer_cli.kernels.cpu.encoding import LEGACY  # noqa: E402  # after the path is set

MOST = 1.005  # times llama.cpp's error, and perplexity


def main() -> int:
    """0 where all are equal, or as good."""
    args = parse()
    names = args.only.split(",") if args.only else [name for name, mix in MIXES.items() if mix.base in WRITABLE]
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        with open_gguf(args.model) as gguf:
            weights = invented(gguf) if args.imatrix else measured(args.importance) if args.importance else None
        if weights is not None:
            save(folder, weights)
        return int(not all(agrees(args, name, folder, weights) for name in names))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="F16, BF16 or F32")
    parser.add_argument("--peer-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--only", metavar="TYPE,...")
    parser.add_argument("--imatrix", action="store_true", help="with an invented importance of columns")
    parser.add_argument("--importance", type=Path, metavar="FILE", help="with that of `powerinfer imatrix`")
    parser.add_argument("--text", type=Path, metavar="FILE", help="compare perplexities of it, too")
    parser.add_argument("--chunks", default="8", metavar="N", help="of the text, of 512 tokens")
    parser.add_argument("--scratch", type=Path, help="where the files go for a while")
    return parser.parse_args()


def invented(gguf: GGUFFile) -> dict[str, np.ndarray]:
    """Skewed as real ones are; by tensor [experts, columns]."""
    rng = np.random.default_rng(0)
    found = {}
    for tensor in gguf.tensors.values():
        if not is_kept(tensor.name, len(tensor.shape)) and tensor.name != "token_embd.weight":
            n_experts = tensor.shape[0] if len(tensor.shape) > 2 else 1
            found[tensor.name] = rng.gamma(0.5, 1.0, (n_experts, tensor.shape[-1])).astype(np.float32)
    return found


def measured(path: Path) -> dict[str, np.ndarray]:
    """Means of what was collected."""
    return dict(read_importance(path).of)


def save(folder: Path, weights: dict[str, np.ndarray]) -> None:
    """For both programs."""
    sums = {name: Sums(one.astype(np.float64), np.ones(len(one), np.int64)) for name, one in weights.items()}
    write_importance(folder / "imatrix.gguf", sums, 1, 512, ["invented"])
    np.savez(folder / "imatrix.npz", **{name: one.reshape(-1) for name, one in weights.items()})


def agrees(args: argparse.Namespace, name: str, folder: Path, weights: dict[str, np.ndarray] | None) -> bool:
    """Whether the file of a type does, with its line."""
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    own = [] if weights is None else ["--imatrix", str(folder / "imatrix.gguf")]
    peer = [] if weights is None else ["--imatrix", str(folder / "imatrix.npz")]
    number = str(MIXES[name].number)
    command = [sys.executable, "-m", "powerinfer_cli", "quantize", str(args.model), str(ours), name]
    own_time = timed([*command, "--allow-requantize", *own])
    script = str(ROOT / "scripts/peers/llama_cpp_quantize.py")
    peer_time = timed([args.peer_python, script, str(args.model), str(theirs), number, *peer])
    if own_time is None or peer_time is None:
        print(f"{name:10} not written by {'us' if own_time is None else 'llama.cpp'}", flush=True)
        return False
    with open_gguf(ours) as a, open_gguf(theirs) as b, open_gguf(args.model) as model:
        types = [one for one in b.tensors if a.tensors[one].type is not b.tensors[one].type]
        same = [one for one in b.tensors if one not in types]
        legacy = [one for one in same if a.tensors[one].type in LEGACY]
        bits = [one for one in legacy if not np.array_equal(a.tensors[one].data, b.tensors[one].data)]
        others = [one for one in same if one not in legacy and a.tensors[one].type is not model.tensors[one].type]
        worst = max((error(one, a, b, model, weights) for one in others), default=0.0)
    lost = 1.0 if args.text is None else perplexity(ours, args) / perplexity(theirs, args)
    told = f"{len(types)} of other types {types[:3]}, {len(bits)} of other bits {bits[:3]}, error {worst:.3f} of theirs"
    told += "" if args.text is None else f", perplexity {lost:.4f}"
    print(f"{name:10} {told}, {own_time:.1f} s beside {peer_time:.1f} s", flush=True)
    return not types and not bits and worst <= MOST and lost <= MOST


def perplexity(path: Path, args: argparse.Namespace) -> float:
    """By ours."""
    asked = ["-m", str(path), "-f", str(args.text), "-c", "512", "--chunks", args.chunks]
    command = [sys.executable, "-m", "powerinfer_cli", "perplexity", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.rpartition("PPL = ")[2].split()[0])


def timed(command: Sequence[str]) -> float | None:
    """Seconds; None where it failed."""
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1:], flush=True)
        return None
    return time.monotonic() - start


def error(name: str, a: GGUFFile, b: GGUFFile, model: GGUFFile, weights: dict[str, np.ndarray] | None) -> float:
    """Of ours in relation to theirs; 1 where both are exact."""
    true = model.tensors[name].to_float32()
    importance = np.ones(true.shape[-1]) if weights is None or name not in weights else weights[name]
    if true.ndim > 2 and importance.ndim > 1:
        importance = importance[:, None]
    ours, theirs = (float((importance * (one.tensors[name].to_float32() - true) ** 2).sum()) for one in (a, b))
    return ours / theirs if theirs else 1.0 + ours


if __name__ == "__main__":
    sys.exit(main())
