"""A fingerprint of a model and of its statistics: says whether a plan or a predictor was made for them."""

import hashlib
import re
import struct
from collections.abc import Sequence

import numpy as np

from powerinfer_cli.gguf_io import GGUFFile, Tensor
from powerinfer_cli.placement.statistics import ActivationStatistics

__all__ = ["are_kin", "kin_numbers", "model_fingerprint", "statistics_fingerprint"]

SAMPLE = 64  # bytes at each place that is looked at
PLACES = 3  # in each tensor: where it begins, in the middle, where it ends
DIGEST = 16  # bytes
KIN_LAYERS, KIN_COLUMNS = 8, 64
LIKE = 0.9  # the cosine of the weights of one model in two quantisations; of two models it is about 0
_UP = re.compile(r"blk\.\d+\.ffn_(up|up_exps|gate_up_exps)\.weight")
# Names, licences and vocabularies do not change what a neuron does.
IDLE_KEYS = ("general.", "tokenizer.", "split.", "GGUF.")


def model_fingerprint(gguf: GGUFFile) -> str:
    """32 hexadecimal digits from the kind of file, its numbers, and each tensor's name, type, shape and some bytes.

    Where the file lies, what it is called and how it is cut into parts change nothing. Reads a few pages of each
    tensor.
    """
    digest = hashlib.blake2b(digest_size=DIGEST)
    digest.update(b"sparse" if gguf.sparse else b"dense")
    for key, value in sorted(gguf.metadata.items()):
        if not key.startswith(IDLE_KEYS) or key == "general.architecture":
            shown = value.tolist() if isinstance(value, np.ndarray) else value
            digest.update(f"{key}={shown!r}\n".encode(errors="replace"))
    for name in sorted(gguf.tensors):
        _add(digest, gguf.tensors[name])
    return digest.hexdigest()


def kin_numbers(gguf: GGUFFile) -> tuple[float, ...]:
    """Some weights of FFNs of some layers, to three digits: nearly the same in all quantisations of a model."""
    ups = [name for name in gguf.tensors if _UP.fullmatch(name)]
    ups.sort(key=lambda name: int(name.split(".")[1]))
    found: list[float] = []
    for name in ups[:: max(1, len(ups) // KIN_LAYERS)][:KIN_LAYERS]:
        up = gguf.tensors[name]
        row = Tensor(up.name, up.type, (1, up.shape[-1]), up.rows()[:1].reshape(-1), up.path).to_float32()
        found += [float(f"{number:.3g}") for number in row[0, :KIN_COLUMNS]]
    return tuple(found)


def are_kin(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two models' `kin_numbers` are those of one model in two quantisations."""
    a, b = np.array(one, np.float64), np.array(other, np.float64)
    if a.shape != b.shape or not a.size or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    return bool(a @ b > LIKE * np.sqrt((a @ a) * (b @ b)) > 0)


def _add(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    digest.update(f"{tensor.name}:{tensor.type.name}:{tensor.shape}\n".encode(errors="replace"))
    last = max(0, tensor.nbytes - SAMPLE)
    for place in sorted({last * i // (PLACES - 1) for i in range(PLACES)}):
        digest.update(tensor.data[place : place + SAMPLE].tobytes())
    tensor.drop_pages(0, tensor.nbytes)  # for a few bytes the system maps 2 MiB, where the file lies in such pieces


def statistics_fingerprint(statistics: ActivationStatistics) -> str:
    """32 hexadecimal digits from all counts."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for counts in statistics.counts:
        digest.update(struct.pack("<Q", counts.size))
        digest.update(np.ascontiguousarray(counts, "<f8").tobytes())
    return digest.hexdigest()
